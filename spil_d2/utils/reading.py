"""Readers of files that somebody else may have written: what they hold, or one error of ours.

The error is an `UnreadableFileError` that names the file. Nothing in a file runs code, makes a
reader recurse without end, or takes much more memory than the file takes on the disk.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import reprlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    NameError,
    SyntaxError,
    ArithmeticError,
    RuntimeError,
    SystemError,
    MemoryError,
    AssertionError,
    ImportError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What the parsers of libraries raise on a damaged file. Only around one call of a parser, never
around code of ours, whose mistakes it would hide."""

_FREE_BYTES = 256 << 20
_MAX_EXPANSION = 100
_MAX_MESSAGE = 2000
_KINDS = {"i": "integers", "iu": "integers", "f": "numbers", "iuf": "numbers", "US": "texts"}
_KINDS |= {"b": "a truth value", "u": "bytes"}
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class UnreadableFileError(ValueError):
    """A file that cannot be used; `reason` says why, without the path."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(printable(f"{path} {reason}"))
        self.path = path
        self.reason = printable(reason)

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors of worker processes are sent as the arguments that make them again.
        return type(self), (self.path, self.reason)


def printable(text: str) -> str:
    """A text that every terminal and log takes: odd characters are escaped, long texts are cut."""
    text = text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]} ..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def is_printable(text: str) -> bool:
    """Whether a text is one of whole characters without NUL, which a path or a name may be."""
    try:
        return "\0" not in text.encode("utf-8").decode("utf-8")
    except UnicodeEncodeError:
        return False


def shown(value: Any) -> str:
    """A value in an error: short, however long or deeply nested it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 60
    short.maxlist = short.maxtuple = short.maxdict = 8
    short.maxlevel = 3
    return short.repr(value)[:200]


def reason_of(error: BaseException) -> str:
    """Why a parser failed, in one short line."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for what it says it holds"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error) if not isinstance(error, KeyError) else f"it lacks {error}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first[:300] or type(error).__name__


def check_expansion(path: Path, expanded: int) -> None:
    """Refuse a file that makes much more of itself than it takes on the disk.

    Args:
        path: of the file.
        expanded: bytes of what it holds.

    Raises:
        UnreadableFileError: they are more than 100 times the file's and above 256 MiB.
    """
    size = path.stat().st_size
    if expanded > max(_FREE_BYTES, _MAX_EXPANSION * size):
        raise UnreadableFileError(
            path,
            f"would take {expanded} bytes of memory, but has {size} on the disk: more than "
            f"{_MAX_EXPANSION} times as much, and above {_FREE_BYTES}, is refused",
        )


def read_text(path: Path, compressed: bool = False) -> str:
    """The UTF-8 text in a file.

    Args:
        path: of the file.
        compressed: by gzip.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: it cannot be read, is no text, or grows without measure.
    """
    try:
        if not compressed:
            return path.read_text(encoding="utf-8")
        limit = max(_FREE_BYTES, _MAX_EXPANSION * path.stat().st_size)
        with gzip.open(path) as file:
            content = file.read(limit + 1)
        check_expansion(path, len(content))
        return content.decode("utf-8")
    except (FileNotFoundError, UnreadableFileError):
        raise
    except DAMAGED as error:
        raise UnreadableFileError(path, f"cannot be read: {reason_of(error)}") from error


def read_json(
    path: str | Path,
    object_hook: Callable[[dict[str, Any]], Any] | None = None,
    compressed: bool = False,
) -> Any:
    """What a JSON file holds.

    Args:
        path: of the file.
        object_hook: called with each object as soon as it is parsed. A ValueError of its own
            passes through where it is an `UnreadableFileError`, and is else taken for the file's.
        compressed: by gzip.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: it is no JSON.
    """
    path = Path(path)
    text = read_text(path, compressed)
    try:
        return json.loads(text, object_hook=object_hook)
    except UnreadableFileError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise UnreadableFileError(path, f"cannot be read as JSON: {reason_of(error)}") from error


class ArrayFile:
    """An open .npz file; no array of Python objects is ever read."""

    def __init__(self, path: Path, what: str, archive: zipfile.ZipFile):
        self._path, self._what, self._archive = path, what, archive
        entries = archive.infolist()
        check_expansion(path, sum(one.file_size for one in entries))
        if any(one.compress_type not in _ZIP_METHODS or one.flag_bits & 1 for one in entries):
            raise self.error("its parts are encrypted or compressed in an unusual way")
        self.names = frozenset(one.filename.removesuffix(".npy") for one in entries)

    def error(self, reason: str) -> UnreadableFileError:
        """The error for this file."""
        return UnreadableFileError(self._path, f"is not a readable {self._what}: {reason}")

    def read(self, name: str, kinds: str, *shape: int | None, is_finite: bool = True) -> np.ndarray:
        """One array.

        Args:
            name: of the array.
            kinds: the allowed `dtype.kind`s, one of the keys of `_KINDS`.
            shape: its length along each axis; None allows any.
            is_finite: refuse NaN and infinity.

        Returns:
            The array; int64 where `kinds` is "i".

        Raises:
            UnreadableFileError: it is missing, damaged, or of another kind or shape.
        """
        if name not in self.names:
            raise self.error(f"it lacks the array {name!r}; it holds {sorted(self.names)}")
        try:
            with self._archive.open(f"{name}.npy") as member:
                seen, dtype = _read_header(member)
            self._check(name, seen, dtype, kinds, shape)
            with self._archive.open(f"{name}.npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
        except UnreadableFileError:
            raise
        except DAMAGED as error:
            raise self.error(f"{name}: {reason_of(error)}") from error
        if is_finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.error(f"{name} holds numbers that are not finite")
        # Sums with integers of 8 bits would overflow.
        return array.astype(np.int64, copy=False) if kinds == "i" else array

    def _check(
        self,
        name: str,
        seen: tuple[int, ...],
        dtype: np.dtype,
        kinds: str,
        shape: tuple[int | None, ...],
    ) -> None:
        is_right = len(seen) == len(shape) and all(
            wanted is None or size == wanted for size, wanted in zip(seen, shape)
        )
        if not is_right or dtype.kind not in kinds or min(seen, default=0) < 0:
            right = str(tuple("N" if one is None else one for one in shape)).replace("'", "")
            raise self.error(f"{name} is {dtype!s:.60} {seen}, must be {_KINDS[kinds]} {right}")
        # What is not in the file is not allocated either.
        size = self._archive.getinfo(f"{name}.npy").file_size
        if dtype.itemsize * int(np.prod(seen, dtype=object)) > size:
            raise self.error(f"{name} {seen} is larger than its part of the file")


@contextlib.contextmanager
def open_arrays(path: str | Path, what: str) -> Iterator[ArrayFile]:
    """Open an .npz file.

    A ValueError of the block, as of a dataclass that checks its arrays, becomes one that names the
    file.

    Args:
        path: of the file.
        what: it should be, in words, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: it is damaged or of another kind.
    """
    path = Path(path)
    with _opened(path, what) as archive:
        try:
            yield ArrayFile(path, what, archive)
        except UnreadableFileError:
            raise
        except ValueError as error:
            message = f"is not a readable {what}: {reason_of(error)}"
            raise UnreadableFileError(path, message) from error


def map_array(path: Path, kinds: str, ndim: int) -> np.ndarray:
    """The array in an .npy file, mapped into memory for reading.

    Args:
        path: of the file.
        kinds: the allowed dtypes in numpy's short form, e.g. "f2".
        ndim: number of its axes.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: it is damaged or of another kind.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise UnreadableFileError(path, f"is no array file: {reason_of(error)}") from error
    if array.dtype.str[1:] != kinds or array.ndim != ndim:
        raise UnreadableFileError(
            path, f"holds {array.dtype} {array.shape}, must be {kinds} of {ndim} axes"
        )
    return array


@contextlib.contextmanager
def _opened(path: Path, what: str) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        message = f"is not a readable {what}: {reason_of(error)}"
        raise UnreadableFileError(path, message) from error
    with archive:
        yield archive


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an .npy part."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"the .npy format {version} is not read here")
    return shape, dtype
