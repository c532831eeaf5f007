"""The vectors of one part of an index: what a backend stores, and the search in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .table import RegionTable

# Rows that are turned to single precision at a time, and queries compared with them at a time.
BLOCK = 16384
_QUERIES = 256
# Regions that an approximate search asks for first, for each image that is wanted.
_REGIONS_PER_IMAGE = 4
_MAX_RESULTS = 1 << 20


@dataclass(frozen=True)
class Candidates:
    """Images of a part with their best region, best first, equal ones by image id.

    Attributes:
        images: (M,) int64, places in the part's table.
        rows: (M,) int64, the regions.
        similarities: (M,) float32, non-increasing.
    """

    images: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray

    @classmethod
    def best(
        cls, table: RegionTable, k: int, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> Candidates:
        """The k best of (images, rows, similarities), which name no image twice."""
        images, rows, similarities = (np.concatenate(one) for one in zip(*parts))
        order = np.lexsort((table.image_ids[images], -similarities))[:k]
        return cls(images[order], rows[order], similarities[order])


class Vectors(ABC):
    """(R, D) vectors in half precision, found by inner product with (Q, D) queries."""

    @abstractmethod
    def __len__(self) -> int:
        """R."""

    @abstractmethod
    def best_images(
        self,
        queries: np.ndarray,
        k: int,
        table: RegionTable,
        eligible: np.ndarray,
        skipped: Sequence[np.ndarray],
    ) -> list[Candidates]:
        """The images with the most similar regions.

        Args:
            queries: (Q, D) float32.
            k: how many images at most; fewer are returned only where fewer may be.
            table: of these vectors.
            eligible: (I,) bool, the images that may be returned.
            skipped: for each query more images, by place in the table, that may not.
        """

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, D) float16."""


class ArrayVectors(Vectors):
    """Vectors in an array or a memory-mapped file, compared with each query."""

    def __init__(
        self, array: np.ndarray, encode: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        """
        Args:
            array: (R, D) float16.
            encode: makes vectors of the array's rows, where they are not vectors yet.
        """
        self._array = array
        self._encode = encode

    def __len__(self) -> int:
        return len(self._array)

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self._array[start:stop])

    def best_images(
        self,
        queries: np.ndarray,
        k: int,
        table: RegionTable,
        eligible: np.ndarray,
        skipped: Sequence[np.ndarray],
    ) -> list[Candidates]:
        found: list[Candidates] = []
        for start in range(0, len(queries), _QUERIES):
            some = slice(start, start + _QUERIES)
            found += self._best_images(queries[some], k, table, eligible, skipped[some])
        return found

    def _best_images(
        self,
        queries: np.ndarray,
        k: int,
        table: RegionTable,
        eligible: np.ndarray,
        skipped: Sequence[np.ndarray],
    ) -> list[Candidates]:
        none = np.zeros(0, np.int64)
        found = [Candidates(none, none, np.zeros(0, np.float32)) for _ in queries]
        for first, last in _image_blocks(table, eligible):
            rows = self.read(table.offsets[first], table.offsets[last])
            vectors = rows.astype(np.float32) if self._encode is None else self._encode(rows)
            similarities = queries @ vectors.T
            starts = table.offsets[first : last + 1] - table.offsets[first]
            best = np.maximum.reduceat(similarities, starts[:-1], axis=1)
            best[:, ~eligible[first:last]] = -np.inf
            for query, skip in enumerate(skipped):
                best[query, skip[(skip >= first) & (skip < last)] - first] = -np.inf
                images = _at_least(best[query], k, found[query])
                if not len(images):
                    continue
                regions = [
                    starts[i] + np.argmax(similarities[query, starts[i] : starts[i + 1]])
                    for i in images
                ]
                new = (
                    first + images,
                    table.offsets[first] + np.asarray(regions, np.int64),
                    best[query, images],
                )
                old = found[query]
                found[query] = Candidates.best(
                    table, k, [(old.images, old.rows, old.similarities), new]
                )
        return found


class ApproximateVectors(Vectors):
    """Vectors of a library that finds regions, from which images are gathered.

    Many regions of one image may crowd the top, so regions are asked for until no other image can
    come before the k-th: first for all queries together, then, where that was too few, for one
    query at a time and without the images that are known.
    """

    @abstractmethod
    def nearest(
        self,
        queries: np.ndarray,
        count: int,
        table: RegionTable,
        eligible: np.ndarray | None,
        is_wide: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The regions with the largest inner products.

        Args:
            queries: (Q, D) float32.
            count: regions for each.
            table: of these vectors.
            eligible: (I,) bool, the images whose regions are looked for; None for all.
            is_wide: leave nothing out that an approximation may.

        Returns:
            (Q, count) int64 rows, -1 after the last, and their (Q, count) float32 similarities,
            non-increasing.
        """

    @property
    def max_count(self) -> int:
        """The largest `count` that `nearest` takes."""
        return len(self)

    def best_images(
        self,
        queries: np.ndarray,
        k: int,
        table: RegionTable,
        eligible: np.ndarray,
        skipped: Sequence[np.ndarray],
    ) -> list[Candidates]:
        count = min(_REGIONS_PER_IMAGE * k, self.max_count)
        step = max(1, _MAX_RESULTS // count)
        mask = None if eligible.all() else eligible
        found = []
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            rows, similarities = self.nearest(some, count, table, mask, False)
            for place, query in enumerate(some):
                may = eligible.copy()
                may[skipped[start + place]] = False
                gathering = _Gathering(table, k, may)
                gathering.take(rows[place], similarities[place])
                self._finish(gathering, query[None], table)
                found.append(gathering.result())
        return found

    def _finish(self, gathering: _Gathering, query: np.ndarray, table: RegionTable) -> None:
        count = min(_REGIONS_PER_IMAGE * gathering.k, self.max_count)
        is_wide = False
        while not gathering.is_complete():
            if gathering.is_exhausted and is_wide:
                raise RuntimeError(
                    f"{type(self).__name__} returns fewer of its {len(self)} regions than there "
                    "are: what it stores is damaged; build the index again"
                )
            if gathering.is_exhausted:
                is_wide = True
                gathering.restart()
            count = min(4 * count, self.max_count)
            rows, similarities = self.nearest(query, count, table, gathering.missing, is_wide)
            gathering.take(rows[0], similarities[0])


class _Gathering:
    """The images that were found for one query, and whether there may be better ones."""

    def __init__(self, table: RegionTable, k: int, may: np.ndarray) -> None:
        self.k = k
        self._table = table
        self._may = may
        self._wanted = min(k, int(may.sum()))
        self.restart()

    def restart(self) -> None:
        """Forget what was found: not all regions of these images were looked at."""
        self.missing = self._may.copy()
        self.is_exhausted = False
        self._floor = np.inf
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def take(self, rows: np.ndarray, similarities: np.ndarray) -> None:
        """Add the answer to a search; an image that it holds has its best region there."""
        valid = rows >= 0
        self.is_exhausted = not valid.all()
        rows, similarities = rows[valid], similarities[valid]
        self._floor = similarities[-1] if len(rows) else -np.inf
        order = np.lexsort((rows, -similarities))
        rows, similarities = rows[order], similarities[order]
        images, first = np.unique(self._table.image_of_row[rows], return_index=True)
        is_new = self.missing[images]
        images, first = images[is_new], first[is_new]
        self.missing[images] = False
        self._parts.append((images, rows[first], similarities[first]))

    def is_complete(self) -> bool:
        """Whether the k best are known, as far as the approximation can tell."""
        similarities = np.concatenate([one[2] for one in self._parts])
        if len(similarities) < self._wanted:
            return False
        if self.is_exhausted or not self.missing.any() or not self._wanted:
            return True
        return self._floor < np.partition(similarities, -self._wanted)[-self._wanted]

    def result(self) -> Candidates:
        return Candidates.best(self._table, self.k, self._parts)


def _image_blocks(table: RegionTable, eligible: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of images with about `BLOCK` regions, of which some are eligible."""
    first = 0
    while first < len(table.image_ids):
        stop = int(np.searchsorted(table.offsets, table.offsets[first] + BLOCK, side="right")) - 1
        last = max(stop, first + 1)
        if eligible[first:last].any():
            yield first, last
        first = last


def _at_least(best: np.ndarray, k: int, found: Candidates) -> np.ndarray:
    """Places in `best` that may be among the k best, given those found before; ties stay."""
    floor = found.similarities[-1] if len(found.similarities) >= k else -np.inf
    if len(best) > k:
        floor = max(floor, np.partition(best, -k)[-k])
    return np.flatnonzero((best >= floor) & (best > -np.inf))
