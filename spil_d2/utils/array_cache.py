"""Arrays by key in a folder of bounded size; what was not used for the longest goes first.

One file an entry: a checksum, a line of JSON, and the arrays as they are in memory, so that they
are mapped and not copied. The time of a file says when it was used last, which is all the
bookkeeping: it outlives the process, and several processes may use one folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

_UNFINISHED = ".part"
# Other files of the folder are not touched.
_OWN_FILE = re.compile(r"[0-9a-f]{16}\.arrays(\.[0-9a-f]{8}\.part)?")
# The checksum, and behind it what it is of: the length of the JSON, that, and the arrays.
_PREFIX = struct.Struct("<II")
_CHECKSUM_BYTES = 4
_ALIGNMENT = 64
# The folder is looked through again when this part of the limit has been written.
_PARTS = 16
_ABANDONED_SECONDS = 3600


class ArrayCache:
    """A folder of entries, each some named arrays. Threads may share it, processes its folder."""

    def __init__(self, folder: str | Path, max_bytes: int):
        """
        Args:
            folder: it is made when the first entry is written.
            max_bytes: of all entries together. Each of several processes that write at the same
                time may exceed it by a sixteenth, or by one entry.
        """
        if max_bytes < 1:
            raise ValueError(f"a cache of at most {max_bytes} bytes in {folder}: use 1 or more")
        self._folder = Path(folder)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._writes = True
        # Bytes that may be written before the folder is looked through again.
        self._room = 0

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry, damaged or not; another process may remove it at any time."""
        return self._path(key).is_file()

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """An entry, which counts as used now; None where there is none.

        A damaged one counts as none, with a warning; `put` replaces it. The arrays are mapped from
        the file; changes of them do not reach it.
        """
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                # Mapped privately: torch takes no arrays that cannot be written.
                entry = _unpack(np.asarray(np.memmap(file, np.uint8, "c")))
                self._use(file.fileno(), path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used (%s): it is made again", path, error)
            return None
        return entry

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep an entry; older ones make room.

        Where the disk is full or refuses otherwise, one warning names the file, and nothing is
        written any more.

        Args:
            key: 16 hex digits, as `fingerprint` gives them.
            arrays: by name, of any simple type and shape.
        """
        if not self._writes:
            return
        path = self._path(key)
        parts = _pack(arrays)
        size = sum(len(part) for part in parts)
        if size > self._max_bytes:
            self._stop(path, f"its {size} bytes exceed the limit of {self._max_bytes}")
            return
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(size)
            # Not synced: the checksum tells what a power failure has left unwritten.
            with open(temporary, "wb") as file:
                file.writelines(parts)
            os.replace(temporary, path)
        except OSError as error:
            self._stop(path, str(error))
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _path(self, key: str) -> Path:
        name = key + ".arrays"
        assert _OWN_FILE.fullmatch(name), f"{key!r} is not 16 hex digits"
        return self._folder / name

    def _use(self, descriptor: int, path: Path) -> None:
        """Set the time of an open file."""
        try:
            if self._writes:
                os.utime(descriptor)
        except OSError as error:
            self._stop(path, str(error))

    def _stop(self, path: Path, reason: str) -> None:
        with self._lock:
            if self._writes:
                logger.warning(
                    "%s cannot be written (%s): the run goes on and keeps nothing more there; free "
                    "or allow space, or choose another folder (CACHE.FEATURES, --cache-gb)",
                    path,
                    reason,
                )
            self._writes = False

    def _make_room(self, size: int) -> None:
        with self._lock:
            if size > self._room:
                self._room = self._evict(max(size, self._max_bytes // _PARTS))
            self._room -= size

    def _evict(self, wanted: int) -> int:
        """Remove what was not used for the longest until `wanted` bytes are free, if it is so much.

        Returns:
            How many are free.
        """
        files = []
        free = self._max_bytes
        for one in os.scandir(self._folder):
            # Other processes remove files, too.
            with contextlib.suppress(FileNotFoundError):
                if _OWN_FILE.fullmatch(one.name) and one.is_file(follow_symlinks=False):
                    status = one.stat()
                    free -= status.st_size
                    files.append((status.st_mtime, status.st_size, one.path))
        in_use = time.time() - _ABANDONED_SECONDS
        for used, size, path in sorted(files):
            if free >= wanted:
                break
            if path.endswith(_UNFINISHED) and used > in_use:
                continue
            Path(path).unlink(missing_ok=True)
            free += size
        return free


def _pack(arrays: Mapping[str, np.ndarray]) -> list[bytes | memoryview]:
    """The content of a file, in parts."""
    kinds = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    header = json.dumps(kinds).encode()
    header += b" " * (-(_PREFIX.size + len(header)) % _ALIGNMENT)
    parts: list[bytes | memoryview] = [header]
    for array in arrays.values():
        parts.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        parts.append(bytes(-array.nbytes % _ALIGNMENT))
    checksum = zlib.crc32(_PREFIX.pack(0, len(header))[_CHECKSUM_BYTES:])
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [_PREFIX.pack(checksum, len(header)), *parts]


def _unpack(content: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of (N,) uint8; ValueError where it is not what `_pack` made."""
    if len(content) < _PREFIX.size:
        raise ValueError("it is cut off")
    checksum, length = _PREFIX.unpack(content[: _PREFIX.size].tobytes())
    if zlib.crc32(content[_CHECKSUM_BYTES:].data) != checksum:
        raise ValueError("its checksum is another one")
    start = _PREFIX.size + length
    arrays = {}
    for name, kind, shape in json.loads(content[_PREFIX.size : start].tobytes()):
        dtype = np.dtype(kind)
        size = dtype.itemsize * math.prod(shape)
        arrays[name] = content[start : start + size].view(dtype).reshape(shape)
        start += size + -size % _ALIGNMENT
    return arrays
