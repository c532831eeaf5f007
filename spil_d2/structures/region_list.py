"""The result of a search by regions: for each query, boxes in order, several an image."""

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
    Column("localizer_scores", np.float32, is_optional=True),
)


@dataclass(frozen=True)
class RegionList:
    """Ranked boxes of one query, best first. Shape shorthand: N boxes.

    Unlike a `RankList`, it may hold several boxes of one image: this is what the INS protocols
    judge, and what a round of the cycle trains on.

    Attributes:
        query_id: the query.
        image_ids: (N,) int64.
        boxes: (N, 4) float32, XYXY_ABS in pixels of the stored gallery image.
        similarities: (N,) float32, the ranking score, higher = nearer, non-increasing. `ranked`
            puts ties in the order image id, then box coordinates.
        localizer_scores: (N,) float32, the localizer's foreground probability of each box; None
            where no localizer has run.

    Raises:
        ValueError: for shapes that do not fit, numbers that are not finite, or a wrong order.
    """

    query_id: int
    image_ids: np.ndarray
    boxes: np.ndarray
    similarities: np.ndarray
    localizer_scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_columns(self, _COLUMNS, "region list")
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.similarities).all()):
            raise ValueError(
                f"region list of query {self.query_id} holds a box or a similarity that is not "
                "a finite number"
            )
        if np.any(self.similarities[1:] > self.similarities[:-1]):
            raise ValueError(
                f"region list of query {self.query_id} is not sorted by similarity; "
                "RegionList.ranked sorts it"
            )

    @classmethod
    def ranked(
        cls,
        query_id: int,
        image_ids: np.ndarray,
        boxes: np.ndarray,
        similarities: np.ndarray,
        localizer_scores: np.ndarray | None = None,
    ) -> RegionList:
        """A list from boxes in any order: by similarity, ties by image id, then by coordinates.

        The order depends on the values alone, not on how the boxes were gathered.

        Args:
            query_id: the query.
            image_ids: (N,) int.
            boxes: (N, 4) XYXY_ABS.
            similarities: (N,).
            localizer_scores: (N,) or None.
        """
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        image_ids = np.asarray(image_ids, np.int64)
        similarities = np.asarray(similarities, np.float32)
        # lexsort's last key is its first.
        order = np.lexsort((*boxes.T[::-1], image_ids, -similarities))
        scores = localizer_scores
        return cls(
            query_id,
            image_ids[order],
            boxes[order],
            similarities[order],
            None if scores is None else np.asarray(scores, np.float32)[order],
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def top(self, k: int) -> RegionList:
        """The first k boxes."""
        return self.take(np.arange(min(k, len(self))))

    def take(self, index: np.ndarray) -> RegionList:
        """The boxes at `index` ((K,) int), which must keep the order of similarity."""
        return replace(self, **take_columns(self, _COLUMNS, index))


@dataclass(frozen=True)
class RegionLists(Mapping):
    """The region lists of many queries, as one artefact. A mapping query id -> RegionList."""

    lists: tuple[RegionList, ...]

    def __post_init__(self) -> None:
        index = {one.query_id: one for one in self.lists}
        if len(index) != len(self.lists):
            raise ValueError("a query has two region lists")
        object.__setattr__(self, "_index", index)

    def __getitem__(self, query_id: int) -> RegionList:
        return self._index[query_id]  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[int]:
        return iter(self._index)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.lists)

    def top(self, k: int) -> RegionLists:
        """Every list cut to its first k boxes."""
        return RegionLists(tuple(one.top(k) for one in self.lists))

    def save(self, path: str | Path) -> None:
        """Write one .npz (no pickle). Ragged lists are stored flat with `offsets` (Q + 1,)."""
        save_lists(path, self.lists, _COLUMNS)

    @classmethod
    def load(cls, path: str | Path) -> RegionLists:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming the file, where it is damaged or not a file of region lists.
        """
        lists = load_lists(path, RegionList, _COLUMNS, "region list")
        try:
            return cls(lists)
        except ValueError as error:
            raise UnreadableFileError(path, f"is no file of region lists: {error}") from error
