"""MATLAB files of version 5 to 7.2, looked through before SciPy reads them."""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from ...utils.reading import DAMAGED, UnreadableFileError, check_expansion, reason_of, shown
from .fields import MAX_ID, DatasetError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_INTEGERS, _NAMES = (5, 6), (1, 16)
_TEXTS = (1, 2, 4, 16, 17, 18)
_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)
_CELL, _STRUCT, _OBJECT, _CHARACTERS, _SPARSE, _FIRST_NUMBERS, _LAST_NUMBERS = 1, 2, 3, 4, 5, 6, 15
_COMPLEX = 0x800
_MAX_AXES = 32
_MAX_DEPTH = 32
_CHUNK = 1 << 20


def read_matlab(path: Path, simplify: bool = False) -> dict[str, Any]:
    """The variables of a file.

    Args:
        path: of the file.
        simplify: structs become dicts, see `simplify_cells` of `scipy.io.loadmat`.

    Raises:
        DatasetError: the file is missing, damaged, of another version, or nested deeper than any
            dataset (SciPy's reader then ends the process).
    """
    try:
        content = path.read_bytes()
        _check(path, content)
        return loadmat(io.BytesIO(content), simplify_cells=simplify)
    except UnreadableFileError as error:
        raise DatasetError(f"{path}: cannot be read as a MATLAB file: {error.reason}") from error
    except (MatReadError, *DAMAGED) as error:
        reason = reason_of(error)
        raise DatasetError(f"{path}: cannot be read as a MATLAB file: {reason}") from error


def matlab_numbers(value: Any, where: str) -> np.ndarray:
    """(N,) float64 numbers of an array of any shape.

    Args:
        value: what `read_matlab` gave.
        where: file and record, for the error.

    Raises:
        DatasetError: it holds something else, or a number that is not finite.
    """
    # A list is of arrays of several kinds or shapes.
    array = np.asarray(() if isinstance(value, list) else value)
    if isinstance(value, list) or array.dtype.kind not in "iufb":
        raise DatasetError(f"{where}: expected numbers, found {shown(value)}")
    numbers = array.astype(np.float64).ravel()
    if not (np.abs(numbers) <= MAX_ID).all():
        raise DatasetError(f"{where}: holds numbers that are not finite, or beyond {MAX_ID}")
    return numbers


def _check(path: Path, content: bytes) -> None:
    """Refuse what SciPy takes on trust: the order of elements, depth, and the size of what is
    compressed. Where these are wrong its reader takes one thing for another, and may end the
    process."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if len(content) < _HEADER or order is None:
        raise UnreadableFileError(path, "it does not begin as a file of version 5 does")
    place, expanded = _HEADER, 0
    while place < len(content):
        kind, start, end, _ = _Elements(path, content, order).at(place, len(content))
        if kind == _COMPRESSED:
            part = _decompressed(path, content[start:end])
            expanded += len(part)
            check_expansion(path, expanded)
            _Elements(path, part, order).check_array(0, len(part))
        else:
            _Elements(path, content, order).check_array(place, end)
        place = end


def _decompressed(path: Path, data: bytes) -> bytes:
    decompressor, parts, size = zlib.decompressobj(), [], 0
    while data and not decompressor.eof:
        parts.append(decompressor.decompress(data, _CHUNK))
        data = decompressor.unconsumed_tail
        size += len(parts[-1])
        check_expansion(path, size)
    return b"".join(parts)


class _Elements:
    """The elements of a file: tags of kind and size, each with its data."""

    def __init__(self, path: Path, content: bytes, order: str) -> None:
        self._path = path
        self._content = content
        self._tag = struct.Struct(f"{order}II")
        self._order = order

    def at(self, place: int, limit: int) -> tuple[int, int, int, int]:
        """Kind, first byte, end of the data, and the next element's place; all up to `limit`."""
        if place + 8 > limit:
            raise self._error(place, "is cut off")
        kind, size = self._tag.unpack_from(self._content, place)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            start, after = place + 4, place + 8
        else:
            start = place + 8
            after = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > min(limit, after):
            raise self._error(place, "is larger than what holds it")
        return kind, start, start + size, min(after, limit)

    def check_array(self, place: int, limit: int, depth: int = 0) -> int:
        """Walk the array at a place, and those in it; returns the place behind it."""
        kind, start, stop, after = self.at(place, limit)
        if kind != _MATRIX:
            raise self._error(place, f"is of type {kind}, must be an array")
        if depth > _MAX_DEPTH:
            raise self._error(place, f"is nested deeper than {_MAX_DEPTH} levels")
        if start == stop:
            return after
        flags, place = self._take(start, stop, _INTEGERS, 8)
        axes, place = self._take(place, stop, _INTEGERS)
        _, place = self._take(place, stop, _NAMES)
        count = self._count(axes, start)
        (word,) = struct.unpack_from(f"{self._order}I", flags)
        place = self._check_content(word & 0xFF, bool(word & _COMPLEX), count, place, stop, depth)
        if place != stop and depth:
            raise self._error(place, "does not belong to its array")
        return after

    def _check_content(
        self, kind: int, is_complex: bool, count: int, place: int, stop: int, depth: int
    ) -> int:
        if kind == _OBJECT:
            _, place = self._take(place, stop, _NAMES)
        if kind in (_STRUCT, _OBJECT):
            length, place = self._take(place, stop, _INTEGERS, 4)
            (size,) = struct.unpack(f"{self._order}i", length)
            names, place = self._take(place, stop, _NAMES)
            if size < 1 or len(names) % size:
                raise self._error(place, "follows names of fields of no length")
            count *= len(names) // size
        if kind in (_CELL, _STRUCT, _OBJECT):
            for _ in range(count):
                place = self.check_array(place, stop, depth + 1)
            return place
        if kind == _CHARACTERS:
            return self._take(place, stop, _TEXTS)[1]
        if kind == _SPARSE:
            for _ in range(2):
                _, place = self._take(place, stop, _INTEGERS)
        elif not _FIRST_NUMBERS <= kind <= _LAST_NUMBERS:
            raise self._error(place, f"is in an array of class {kind}, which is not read here")
        for _ in range(1 + is_complex):
            _, place = self._take(place, stop, _NUMBERS)
        return place

    def _take(
        self, place: int, limit: int, kinds: tuple[int, ...], size: int | None = None
    ) -> tuple[bytes, int]:
        """The data of an element of one of the kinds, and the next element's place."""
        kind, start, end, after = self.at(place, limit)
        if kind not in kinds or size not in (None, end - start):
            raise self._error(place, f"has type {kind} and {end - start} bytes, not what belongs")
        return self._content[start:end], after

    def _count(self, axes: bytes, place: int) -> int:
        """How many items an array of these axes has."""
        if len(axes) % 4 or not 8 <= len(axes) <= 4 * _MAX_AXES:
            raise self._error(place, "is an array without a shape")
        sides = struct.unpack(f"{self._order}{len(axes) // 4}i", axes)
        if min(sides) < 0:
            raise self._error(place, f"is an array of shape {sides}")
        return math.prod(sides)

    def _error(self, place: int, reason: str) -> UnreadableFileError:
        return UnreadableFileError(self._path, f"what is at byte {place} {reason}")
