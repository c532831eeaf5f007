"""What the disk refuses, in words: which file, and what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

# What only writing can meet with: where `named_disk_errors` stands, files are read, too.
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_DENIED = (errno.EACCES, errno.EPERM)
_SQLITE_ERRORS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}


class DiskError(OSError):
    """The disk refuses what is written: the message names the file and says what to do."""


@contextlib.contextmanager
def named_disk_errors(path: Path, *, names_denied: bool = False) -> Iterator[None]:
    """What the disk refuses inside becomes a `DiskError` that names a file and says what to do.

    Libraries wrap such errors or leave their numbers out, and cleaning up meets with them again:
    the first of a chain counts, and one that has its words already before all others.

    Args:
        path: what is written.
        names_denied: nothing is read inside: missing permissions count, too.

    Raises:
        DiskError: for a full or read-only disk, a used up quota, or a file above the process's
            limit of size; what else is raised inside passes.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        chain = list(_chain_of(error))
        for one in chain:
            if isinstance(one, DiskError):
                raise DiskError(one.errno, one.strerror) from error
        codes = (*_WRITE_ERRORS, *(_DENIED if names_denied else ()))
        for code in map(_code_of, chain):
            if code in codes:
                raise DiskError(code, _refusal(Path(path), code)) from error
        raise


def _chain_of(error: BaseException) -> Iterator[BaseException]:
    """What an error comes from, the first one first."""
    if (before := error.__cause__ or error.__context__) is not None:
        yield from _chain_of(before)
    yield error


def _code_of(error: BaseException) -> int:
    """The number of the system's error that another one stands for, or 0."""
    if isinstance(error, sqlite3.Error):
        # Only what the library itself reports has a code; its lower byte is the kind.
        return _SQLITE_ERRORS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, 0)
    if not isinstance(error, OSError):
        return 0
    if error.errno is None and "requested and" in str(error):
        # numpy's words for an array of which a part was written.
        return errno.ENOSPC
    return error.errno or 0


def _refusal(path: Path, code: int) -> str:
    if code in (errno.ENOSPC, errno.EDQUOT):
        place = next(one for one in path.absolute().parents if one.is_dir())
        free = shutil.disk_usage(place).free / 2**20
        advice = (
            f"{free:.1f} MB are free there. Make room and run the same command again, a program "
            "of tools/ with --resume: what was finished is kept"
        )
    elif code == errno.EFBIG:
        advice = "raise the limit of this process (`ulimit -f`) and run the same command again"
    else:
        advice = "use another directory, or make this one writable"
    return f"{path} cannot be written ({os.strerror(code)}): {advice}"
