"""The part of the contract that all backends of this package share."""

from __future__ import annotations

import logging
import uuid
from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...structures import RankList, RankLists
from ...utils.artifacts import lock_output_dir
from ..engines.base import Regions
from .base import RegionIndex
from .segments import (
    HEAD_NAME,
    Head,
    Segment,
    VectorSource,
    damaged,
    half_precision,
    mean_embedding,
    merge_in_memory,
    read_segment,
    remove_other_segments,
    write_segment,
)
from .table import Centring, RegionTable
from .vectors import BLOCK, ArrayVectors, Candidates, Vectors

logger = logging.getLogger(__name__)

# A segment of which more than this part is deleted is written again.
_MAX_DELETED = 0.25


class SegmentedIndex(RegionIndex):
    """An index of segments: new images make a small segment, and small ones are merged.

    A backend says how the vectors of a segment are written, opened and dropped. What was not
    persisted yet is kept as it was added and searched exactly, in every backend.
    """

    def __init__(self, *, is_centred: bool = False, **settings: Any) -> None:
        """
        Args:
            is_centred: see `RegionIndex`.
            settings: of the backend, JSON-like; they are kept with the index.
        """
        self._head = Head(self.backend, is_centred=is_centred, settings=settings)
        self._directory: Path | None = None
        self._segments: list[Segment] = []
        self._new_mean: Centring | None = None

    @abstractmethod
    def _write_vectors(self, path: Path, name: str, source: VectorSource) -> None:
        """Write a segment's vectors, into the directory `path` or elsewhere by its name."""

    @abstractmethod
    def _open_vectors(self, path: Path, name: str) -> Vectors:
        """Open what `_write_vectors` wrote."""

    def _drop_other_vectors(self, kept: Sequence[str]) -> None:
        """Drop vectors outside the directory of all segments but those named."""

    def _connect(self) -> None:
        """Prepare to use `self._directory`."""

    @classmethod
    def create(
        cls, directory: str | Path | None, *, is_centred: bool = False, **options: Any
    ) -> SegmentedIndex:
        index = cls(is_centred=is_centred, **options)
        if directory is not None:
            index._settle(Path(directory))
        return index

    @classmethod
    def open(cls, directory: str | Path, **options: Any) -> SegmentedIndex:
        directory = Path(directory)
        head = Head.read(directory)
        if head.backend != cls.backend:
            raise ValueError(
                f"{directory} is an index of the backend {head.backend!r}, not {cls.backend!r}: "
                "use open_region_index"
            )
        try:
            index = cls(is_centred=head.is_centred, **{**head.settings, **options})
        except (TypeError, ValueError) as error:
            raise damaged(directory, error) from error
        index._directory = directory
        index._connect()
        try:
            index._read()
        except BaseException:
            index.close()
            raise
        return index

    @property
    def is_centred(self) -> bool:
        return self._head.is_centred

    def __len__(self) -> int:
        return sum(int(one.is_alive.sum()) for one in self._segments)

    @property
    def num_regions(self) -> int:
        return sum(one.num_regions for one in self._segments)

    @property
    def dimension(self) -> int:
        return self._head.dimension

    @property
    def image_ids(self) -> np.ndarray:
        parts = [one.table.image_ids[one.is_alive] for one in self._segments]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    @property
    def _place(self) -> Path:
        """Of the index, for errors."""
        return self._directory or Path("the index in memory")

    def add(self, image_ids: Sequence[int], regions: Sequence[Regions]) -> None:
        if len(image_ids) != len(regions):
            raise ValueError(f"{len(image_ids)} image ids for {len(regions)} sets of regions")
        if not regions:
            return
        ids = np.asarray(image_ids, np.int64)
        here = [one.table.image_ids[one.find(ids)] for one in self._segments]
        if len(np.unique(ids)) != len(ids) or any(map(len, here)):
            seen = np.concatenate([np.zeros(0, np.int64), *here])[:5].tolist()
            raise ValueError(
                f"an image is added to the index twice: image ids must be unique (there: {seen})"
            )
        size = self.dimension or regions[0].embeddings.shape[1]
        array = np.concatenate(
            [
                half_precision(image_id, one.embeddings, size)
                for image_id, one in zip(image_ids, regions)
            ]
        )
        table = RegionTable.of(image_ids, regions)
        self._change_head(dimension=size)
        self._segments.append(Segment(table, ArrayVectors(array), np.ones(len(ids), bool)))
        self._new_mean = None
        self._merge_new()

    def _merge_new(self) -> None:
        """Few parts in memory, and each vector copied a logarithmic number of times at most."""
        parts = self._segments
        while len(parts) > 1 and parts[-2].name is None:
            sizes = [len(one.table.boxes) for one in parts[-2:]]
            if sizes[0] > sizes[1] or sum(sizes) > BLOCK:
                return
            parts[-2:] = [merge_in_memory(parts[-2:])]

    def delete(self, image_ids: Collection[int]) -> None:
        ids = np.unique(np.fromiter(image_ids, np.int64, len(image_ids)))
        missing = np.setdiff1d(ids, self.image_ids)
        if len(missing):
            raise ValueError(
                f"{len(missing)} images to delete are not in the index, e.g. "
                f"{missing[:5].tolist()}; nothing was deleted"
            )
        for one in self._segments:
            one.is_alive[one.find(ids)] = False
        self._segments = [one for one in self._segments if one.name or one.is_alive.any()]
        self._new_mean = None

    def search(
        self,
        query_ids: Sequence[int],
        embeddings: np.ndarray,
        k: int,
        excluded: Sequence[Collection[int]] | None = None,
        allowed: Collection[int] | None = None,
    ) -> RankLists:
        if k < 1 or not len(self):
            raise ValueError(f"search of {len(self)} images for the best {k}: both must be > 0")
        count = len(query_ids)
        if embeddings.shape != (count, self.dimension):
            raise ValueError(
                f"query embeddings are {embeddings.shape}, not ({count}, {self.dimension})"
            )
        if excluded is not None and len(excluded) != count:
            raise ValueError(f"{len(excluded)} sets of excluded images for {count} queries")
        queries = self._encode_queries(embeddings)
        left_out = [np.fromiter(one, np.int64, len(one)) for one in excluded or [()] * count]
        only = None if allowed is None else np.fromiter(allowed, np.int64, len(allowed))
        found = []
        for one in self._segments:
            eligible = one.is_alive
            if only is not None:
                eligible = np.zeros_like(eligible)
                eligible[one.find(only)] = True
            if eligible.any():
                skipped = [one.find(ids) for ids in left_out]
                vectors = self._searchable(one)
                try:
                    best = vectors.best_images(queries, k, one.table, eligible, skipped)
                except (RuntimeError, ValueError) as error:
                    raise damaged(self._place, error) from error
                if not all(np.isfinite(part.similarities).all() for part in best):
                    raise damaged(
                        self._place, ValueError("vectors hold numbers that are not finite")
                    )
                found.append((one.table, best))
        return RankLists(
            tuple(
                _merge(int(query_id), k, [(table, best[place]) for table, best in found])
                for place, query_id in enumerate(query_ids)
            )
        )

    def _searchable(self, segment: Segment) -> Vectors:
        if segment.name is not None or not self.is_centred:
            return segment.vectors
        return ArrayVectors(segment.vectors.read(0, len(segment.vectors)), self._centring().encode)

    def _centring(self) -> Centring:
        """What is published, or before that the mean of what there is."""
        if not self.is_centred or self._head.centring.mean is not None:
            return self._head.centring
        if self._new_mean is None:
            self._new_mean = self._mean_of(self._segments)
        return self._new_mean

    def _encode_queries(self, embeddings: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._centring().encode(embeddings), np.float32)

    def compare(self, query_embeddings: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        return self._encode_queries(query_embeddings) @ self._centring().encode(embeddings).T

    def regions_of(self, image_id: int) -> Regions:
        for one in self._segments:
            for place in one.find(np.array([image_id], np.int64)):
                start, stop = one.table.offsets[place : place + 2].tolist()
                return Regions(
                    one.table.boxes[start:stop],
                    one.table.saliency[start:stop],
                    one.embeddings(start, stop),
                )
        raise KeyError(f"image {image_id} is not among the {len(self)} images of the index")

    def persist(self) -> None:
        self._persist(merge_all=False)

    def compact(self) -> None:
        self._persist(merge_all=True)

    def save(self, directory: str | Path, *, is_centred: bool | None = None) -> None:
        is_centred = self.is_centred if is_centred is None else is_centred
        copy = type(self)(is_centred=is_centred, **self._settings_of_copy())
        copy._settle(Path(directory))
        try:
            copy._change_head(dimension=self.dimension)
            copy._publish(self._segments, [], copy._mean_of(self._segments))
        finally:
            copy.close()

    def _settings_of_copy(self) -> dict[str, Any]:
        return self._head.settings

    def close(self) -> None:
        # Nobody refers to the mapped files any more, which closes them.
        self._segments = []

    def _settle(self, directory: Path) -> None:
        if (directory / HEAD_NAME).exists():
            raise FileExistsError(f"{directory} holds a region index already: open or remove it")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._connect()
        self._head.write(directory)

    def _read(self) -> None:
        """Open the segments that the head names, also while another process replaces them."""
        assert self._directory is not None
        while True:
            head = Head.read(self._directory)
            try:
                segments = [
                    self._open_segment(name, deleted, head.centring)
                    for name, deleted in head.segments.items()
                ]
            except FileNotFoundError as error:
                if Head.read(self._directory).generation == head.generation:
                    raise damaged(self._directory, error) from error
                continue
            for one in segments:
                if one.embeddings(0, 1).shape[1:] != (head.dimension,):
                    raise damaged(self._directory, ValueError(f"{one.name}: another dimension"))
            self._change_head(**{**vars(head), "settings": self._head.settings})
            self._segments = segments
            return

    def _persist(self, *, merge_all: bool) -> None:
        if self._directory is None:
            raise ValueError("an index in memory has no directory to persist in: use save")
        with lock_output_dir(self._directory):
            seen = Head.read(self._directory).generation
            if seen != self._head.generation:
                raise RuntimeError(
                    f"{self._directory} was persisted by another process (generation {seen}) since "
                    f"it was opened here (generation {self._head.generation}): open it again"
                )
            if merge_all or self._is_mean_old():
                self._publish(self._segments, [], self._mean_of(self._segments))
            else:
                merged = self._to_merge()
                kept = [one for one in self._segments if one not in merged]
                self._publish(merged, kept, self._head.centring)

    def _is_mean_old(self) -> bool:
        of = self._head.centring.num_regions
        return self.is_centred and not of / 2 < self.num_regions < 2 * of

    def _mean_of(self, segments: Sequence[Segment]) -> Centring:
        living = [one for one in segments if one.is_alive.any()]
        if not self.is_centred or not living:
            return Centring()
        return mean_embedding(living, self.dimension)

    def _to_merge(self) -> list[Segment]:
        """New segments, old ones that lost much, and old ones that are not larger than those."""
        old = [one for one in self._segments if one.name is not None]
        merged = [one for one in self._segments if one.name is None]
        for one in old:
            if one.num_regions < (1 - _MAX_DELETED) * len(one.table.boxes):
                merged.append(one)
        size = sum(one.num_regions for one in merged)
        rest = sorted((one for one in old if one not in merged), key=lambda one: one.num_regions)
        for one in rest:
            if one.num_regions > size:
                break
            merged.append(one)
            size += one.num_regions
        return [one for one in self._segments if one in merged]

    def _publish(
        self, merged: Sequence[Segment], kept: Sequence[Segment], centring: Centring
    ) -> None:
        """Write `merged` as one segment and replace the head."""
        assert self._directory is not None
        living = [one for one in merged if one.is_alive.any()]
        segments = list(kept)
        generation = self._head.generation + 1
        if living:
            name = f"{generation:06d}-{uuid.uuid4().hex[:8]}"
            source = VectorSource(living, centring, self.dimension)
            write_segment(
                self._directory,
                name,
                source.table,
                lambda path: self._write_vectors(path, name, source),
            )
            segments.append(self._open_segment(name, [], centring))
        names = {str(one.name): one.deleted.tolist() for one in segments}
        self._change_head(generation=generation, centring=centring, segments=names, publish=True)
        self._segments = segments
        self._new_mean = None
        remove_other_segments(self._directory, list(names))
        self._drop_other_vectors(list(names))
        logger.debug("%s: generation %d, %d segments", self._directory, generation, len(names))

    def _open_segment(self, name: str, deleted: Sequence[int], centring: Centring) -> Segment:
        assert self._directory is not None
        return read_segment(
            self._directory, name, deleted, centring, lambda path: self._open_vectors(path, name)
        )

    def _change_head(self, *, publish: bool = False, **changes: Any) -> None:
        head = Head(**{**vars(self._head), **changes})
        if publish:
            assert self._directory is not None
            head.write(self._directory)
        self._head = head


def _merge(query_id: int, k: int, found: Sequence[tuple[RegionTable, Candidates]]) -> RankList:
    """The rank list of the best images of all segments."""
    ids = [table.image_ids[one.images] for table, one in found]
    boxes = [table.boxes[one.rows] for table, one in found]
    image_ids = np.concatenate([np.zeros(0, np.int64), *ids])
    similarities = np.concatenate(
        [np.zeros(0, np.float32), *(one.similarities for _, one in found)]
    ).astype(np.float32)
    order = np.lexsort((image_ids, -similarities))[:k]
    all_boxes = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
    return RankList(query_id, image_ids[order], all_boxes[order], similarities[order])
