"""What pictures a folder holds, told without opening them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..data.pictures import is_picture_name


@dataclass(frozen=True)
class ScannedFile:
    """A file, or a folder that cannot be listed.

    Attributes:
        path: relative to the scanned folder, with forward slashes.
        size: in bytes.
        mtime_ns: time of the last change.
        error: why it cannot be read, as far as that shows without opening it, or "".
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    error: str = ""


def scan_folder(folder: Path, skipped: Path | None = None) -> Iterator[ScannedFile]:
    """Walk a folder with all below it; the same tree gives the same order.

    Names that start with a dot are left out, and so is what does not end like a picture. Links to
    files and folders are followed; each folder is visited once, so that loops end.

    Args:
        folder: an existing folder.
        skipped: a folder that is left out where it lies inside.

    Raises:
        OSError: `folder` itself cannot be listed.
    """
    os.scandir(folder).close()
    seen = {_identity(skipped)} if skipped is not None and skipped.is_dir() else set()
    # Linked folders come last: a picture is named by where it really lies, if that is inside.
    pending, linked = [""], []
    while pending or linked:
        relative = pending.pop() if pending else linked.pop(0)
        try:
            if _identity(folder / relative) in seen:
                continue
            seen.add(_identity(folder / relative))
            with os.scandir(folder / relative) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield ScannedFile(_printable(relative), error=_reason(error))
            continue
        folders = []
        for entry in entries:
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(path)
            elif is_picture_name(entry.name):
                yield _scanned(entry, path)
        pending += folders[::-1]


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads back to itself: `_scanned` says so, if it is named like a picture.
        return False


def _scanned(entry: os.DirEntry, path: str) -> ScannedFile:
    printable = _printable(path)
    if printable != path:
        return ScannedFile(printable, error="its name is not valid UTF-8: rename it")
    try:
        status = entry.stat()
    except OSError as error:
        reason = "a broken link" if entry.is_symlink() else _reason(error)
        return ScannedFile(path, error=reason)
    if not stat.S_ISREG(status.st_mode):
        return ScannedFile(path, error="it is no ordinary file")
    return ScannedFile(path, status.st_size, status.st_mtime_ns)


def _printable(path: str) -> str:
    """The path with bytes that are no UTF-8 written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
