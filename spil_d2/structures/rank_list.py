"""The result of a search: for each query, gallery images in order, one box each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..utils.reading import UnreadableFileError
from .flat_npz import Column, check_columns, load_lists, save_lists, take_columns

_COLUMNS = (
    Column("image_ids", np.int64),
    Column("boxes", np.float32, width=4),
    Column("similarities", np.float32),
    Column("probabilities", np.float32, is_optional=True),
)


@dataclass(frozen=True)
class RankList:
    """Ranked gallery images of one query, best first. Shape shorthand: M ranked images.

    Attributes:
        query_id: the query.
        image_ids: (M,) int64, no image twice.
        boxes: (M, 4) float32, XYXY_ABS in pixels of the stored gallery image.
        similarities: (M,) float32, what the order comes from, higher = nearer, non-increasing.
        probabilities: (M,) float32 in [0, 1], the localizer's foreground probability of each box;
            None where no localizer has run.
    """

    query_id: int
    image_ids: np.ndarray
    boxes: np.ndarray
    similarities: np.ndarray
    probabilities: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_columns(self, _COLUMNS, "rank list")
        if len(np.unique(self.image_ids)) != len(self):
            raise ValueError(f"rank list of query {self.query_id} holds an image twice")
        if np.isnan(self.similarities).any():
            raise ValueError(f"rank list of query {self.query_id} holds a similarity that is none")
        if np.any(np.diff(self.similarities) > 0):
            raise ValueError(f"rank list of query {self.query_id} is not sorted by similarity")

    def __len__(self) -> int:
        return len(self.image_ids)

    def top(self, k: int) -> RankList:
        """The first k entries."""
        return self.take(np.arange(min(k, len(self))))

    def take(self, index: np.ndarray) -> RankList:
        """The entries at `index` ((K,) int), which must keep the order of similarity."""
        return replace(self, **take_columns(self, _COLUMNS, index))


@dataclass(frozen=True)
class RankLists(Mapping):
    """The rank lists of many queries, as one artefact. A mapping query id -> RankList."""

    lists: tuple[RankList, ...]

    def __post_init__(self) -> None:
        index = {one.query_id: one for one in self.lists}
        if len(index) != len(self.lists):
            raise ValueError("a query has two rank lists")
        object.__setattr__(self, "_index", index)

    def __getitem__(self, query_id: int) -> RankList:
        return self._index[query_id]  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[int]:
        return iter(self._index)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.lists)

    def top(self, k: int) -> RankLists:
        """Every list cut to its first k entries."""
        return RankLists(tuple(one.top(k) for one in self.lists))

    def save(self, path: str | Path) -> None:
        """Write one .npz (no pickle). Ragged lists are stored flat with `offsets` (Q + 1,)."""
        save_lists(path, self.lists, _COLUMNS)

    @classmethod
    def load(cls, path: str | Path) -> RankLists:
        """Read what `save` wrote.

        Raises:
            ValueError: naming the file, where it is damaged or not a file of rank lists.
        """
        lists = load_lists(path, RankList, _COLUMNS, "rank list")
        try:
            return cls(lists)
        except ValueError as error:
            raise UnreadableFileError(path, f"is no file of rank lists: {error}") from error

    def to_coco_results(self) -> list[dict]:
        """COCO result records with `query_id` and `rank` (from 1), for viewers; boxes are XYWH."""
        records = []
        for one in self.lists:
            sizes = one.boxes[:, 2:] - one.boxes[:, :2]
            for rank, (image_id, box, size) in enumerate(zip(one.image_ids, one.boxes, sizes), 1):
                record = {
                    "image_id": int(image_id),
                    "category_id": 1,
                    "bbox": [round(float(v), 2) for v in (*box[:2], *size)],
                    "score": round(float(one.similarities[rank - 1]), 6),
                    "query_id": one.query_id,
                    "rank": rank,
                }
                if one.probabilities is not None:
                    record["probability"] = round(float(one.probabilities[rank - 1]), 6)
                records.append(record)
        return records
