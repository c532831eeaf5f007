"""The parts of an index in memory and on the disk, and the file that says which ones count.

An index directory holds `index.json`, the head, and `segments/NAME/` for each part: an artefact
with `regions.npz` and what the backend keeps there. A segment is never changed. To change the
index is to write new segments and then to replace the head: until then nothing has happened.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.artifacts import publish_directory, remove_artefact, write_json_atomic
from ...utils.reading import UnreadableFileError, read_json, reason_of, shown
from .table import Centring, RegionTable
from .vectors import BLOCK, ArrayVectors, Vectors

HEAD_NAME = "index.json"
REGIONS_NAME = "regions.npz"
_FORMAT = 1
# A name that leads nowhere else.
_SEGMENT = re.compile(r"\w[\w-]*", re.ASCII)


@dataclass(eq=False)
class Segment:
    """A part of an index.

    Attributes:
        table: its regions.
        vectors: of these regions.
        is_alive: (I,) bool, False for images that were deleted.
        centring: what the vectors were encoded by; nothing for embeddings as they were added.
        name: of its directory; None while it is in memory only.
    """

    table: RegionTable
    vectors: Vectors
    is_alive: np.ndarray
    centring: Centring = field(default_factory=Centring)
    name: str | None = None

    @property
    def num_regions(self) -> int:
        """Of the images that are alive."""
        return int(self.table.counts[self.is_alive].sum())

    @property
    def deleted(self) -> np.ndarray:
        """(D,) ids of the images that are no longer alive."""
        return self.table.image_ids[~self.is_alive]

    def find(self, image_ids: np.ndarray) -> np.ndarray:
        """Places of those of the images that are here and alive."""
        places = self.table.find(image_ids)
        return places[self.is_alive[places]]

    def embeddings(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, D) float32 as they were added."""
        rows = self.vectors.read(start, stop)
        return self.centring.decode(rows, self.table.lengths[start:stop])

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Ranges of rows, with a mask of those of images that are alive."""
        rows = np.repeat(self.is_alive, self.table.counts)
        for start in range(0, len(rows), BLOCK):
            mask = rows[start : start + BLOCK]
            if mask.any():
                yield start, start + len(mask), mask


def merge_in_memory(segments: Sequence[Segment]) -> Segment:
    """One segment of the living images of segments that are in memory."""
    parts = [
        one.vectors.read(start, stop)[mask]
        for one in segments
        for start, stop, mask in one.blocks()
    ]
    table = RegionTable.join([one.table.take(one.is_alive) for one in segments])
    vectors = ArrayVectors(np.concatenate(parts))
    return Segment(table, vectors, np.ones(len(table.image_ids), bool))


def mean_embedding(segments: Sequence[Segment], dimension: int) -> Centring:
    """The mean of all living embeddings, summed in double precision."""
    total, count = np.zeros(dimension), 0
    for one in segments:
        for start, stop, mask in one.blocks():
            total += one.embeddings(start, stop)[mask].sum(axis=0, dtype=np.float64)
            count += int(mask.sum())
    return Centring((total / max(count, 1)).astype(np.float32), count)


class VectorSource:
    """The vectors of a segment that is to be written: as often as one likes, a block at a time."""

    def __init__(self, segments: Sequence[Segment], centring: Centring, dimension: int) -> None:
        self._segments = segments
        self._centring = centring
        self.table = self._table()
        self.shape = (len(self.table.boxes), dimension)

    def __iter__(self) -> Iterator[np.ndarray]:
        """(n, D) float16 blocks in the order of the table."""
        for one in self._segments:
            for start, stop, mask in one.blocks():
                if one.centring.mean is self._centring.mean:
                    yield one.vectors.read(start, stop)[mask]
                else:
                    embeddings = one.embeddings(start, stop)[mask]
                    yield self._centring.encode(embeddings).astype(np.float16)

    def sample(self, count: int) -> np.ndarray:
        """(about count, D) float32, evenly spread."""
        step = max(1, self.shape[0] // count)
        parts, start = [], 0
        for block in self:
            parts.append(block[-start % step :: step].astype(np.float32))
            start += len(block)
        return np.concatenate(parts)

    def _table(self) -> RegionTable:
        tables = []
        for one in self._segments:
            table = one.table.take(one.is_alive)
            if one.centring.mean is not self._centring.mean:
                lengths = [
                    self._centring.lengths(one.embeddings(start, stop)[mask])
                    for start, stop, mask in one.blocks()
                ]
                table = replace(table, lengths=np.concatenate(lengths))
            tables.append(table)
        return RegionTable.join(tables)


@dataclass(frozen=True)
class Head:
    """What `index.json` says.

    Attributes:
        backend: that wrote the index.
        generation: how often the index was persisted.
        dimension: of an embedding, 0 before the first.
        is_centred: see `RegionIndex`.
        centring: of all segments.
        segments: name -> ids of the images that were deleted from it.
        settings: of the backend.
    """

    backend: str
    generation: int = 0
    dimension: int = 0
    is_centred: bool = False
    centring: Centring = field(default_factory=Centring)
    segments: dict[str, list[int]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Replace the head of an index directory: the moment of publication."""
        mean = self.centring.mean
        content = {
            "format": _FORMAT,
            "backend": self.backend,
            "generation": self.generation,
            "dimension": self.dimension,
            "is_centred": self.is_centred,
            "mean": None if mean is None else mean.tolist(),
            "mean_of_regions": self.centring.num_regions,
            "segments": [{"name": n, "deleted": ids} for n, ids in self.segments.items()],
            "settings": self.settings,
        }
        write_json_atomic(directory / HEAD_NAME, content)

    @classmethod
    def read(cls, directory: Path) -> Head:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: naming the directory, where the file is damaged.
        """
        path = directory / HEAD_NAME
        try:
            content = read_json(path)
            return _head(content, cls)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} is missing: {directory} holds no region index; build it"
            ) from error
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise damaged(directory, error) from error


def _head(content: Any, kind: type[Head]) -> Head:
    """The head in the content of its file; KeyError, TypeError or ValueError where it is none."""
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']!r}, this code reads {_FORMAT}")
    mean = content["mean"]
    dimension = _count(content["dimension"])
    if mean is not None:
        mean = np.asarray(mean, np.float32)
        if mean.shape != (dimension,) or not np.isfinite(mean).all():
            raise ValueError(f"the mean is not of {dimension} finite numbers")
    segments: dict[str, list[int]] = {}
    for one in content["segments"]:
        name, deleted = one["name"], one["deleted"]
        if not isinstance(name, str) or not _SEGMENT.fullmatch(name) or name in segments:
            raise ValueError(f"{shown(name)} is no name of a segment, or there twice")
        segments[name] = [_count(number, allow_negative=True) for number in deleted]
    if not isinstance(content["is_centred"], bool) or not isinstance(content["backend"], str):
        raise ValueError("backend is a text, and is_centred true or false")
    if not isinstance(content["settings"], dict):
        raise ValueError("settings is an object")
    return kind(
        content["backend"],
        _count(content["generation"]),
        dimension,
        content["is_centred"],
        Centring(mean, _count(content["mean_of_regions"])),
        segments,
        content["settings"],
    )


def _count(value: Any, allow_negative: bool = False) -> int:
    if type(value) is not int or abs(value) >= 1 << 62 or (value < 0 and not allow_negative):
        raise ValueError(f"{shown(value)} is no number of things")
    return value


def write_segment(
    directory: Path, name: str, table: RegionTable, write_vectors: Callable[[Path], None]
) -> None:
    """Put a segment on the disk, whole or not at all; no head names it yet."""

    def write(path: Path) -> None:
        write_vectors(path)
        table.save(path / REGIONS_NAME)

    facts = {"images": len(table.image_ids), "regions": len(table.boxes)}
    publish_directory(segment_directory(directory, name), write, facts)


def read_segment(
    directory: Path,
    name: str,
    deleted: Sequence[int],
    centring: Centring,
    open_vectors: Callable[[Path], Vectors],
) -> Segment:
    """A segment that a head names.

    Raises:
        FileNotFoundError: a file of it is missing.
        ValueError: naming the directory, where its files are damaged or do not belong together.
    """
    path = segment_directory(directory, name)
    try:
        table = RegionTable.load(path / REGIONS_NAME)
        vectors = open_vectors(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise damaged(directory, error) from error
    if len(vectors) != len(table.boxes):
        raise ValueError(
            f"{path}: {len(vectors)} vectors for {len(table.boxes)} regions: its files are not of "
            "one region index; build it again"
        )
    alive = ~np.isin(table.image_ids, np.asarray(deleted, np.int64))
    return Segment(table, vectors, alive, centring, name)


def half_precision(image_id: int, embeddings: np.ndarray, size: int) -> np.ndarray:
    """(R, D) float16 of an image's embeddings (R, D).

    Raises:
        ValueError: there are none, of another length than `size`, or too large numbers.
    """
    if len(embeddings) == 0 or embeddings.shape[1] != size:
        raise ValueError(
            f"image {image_id}: embeddings {embeddings.shape}, an index of dimension {size} needs "
            f"(R, {size}) with R > 0"
        )
    with np.errstate(over="ignore"):
        half = embeddings.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(
            f"image {image_id}: its embeddings hold values that are not finite in half precision; "
            f"the largest is {np.abs(embeddings).max()}"
        )
    return half


def remove_other_segments(directory: Path, kept: Sequence[str]) -> None:
    """Remove segments that no head names any more, or that a killed process left."""
    folder = directory / "segments"
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in kept and not path.name.startswith(".tmp-"):
                remove_artefact(path)


def segment_directory(directory: Path, name: str) -> Path:
    """Where a segment lies."""
    return directory / "segments" / name


def damaged(directory: Path, error: Exception) -> ValueError:
    """The error for an index that cannot be read."""
    reason = reason_of(error)
    return UnreadableFileError(
        directory, f"is not a readable region index ({reason}): build it again"
    )
