"""The result of a search: for each query, gallery images in order, one box each."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np


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
        m = len(self.image_ids)
        expected = {"image_ids": (m,), "boxes": (m, 4), "similarities": (m,)}
        if self.probabilities is not None:
            expected["probabilities"] = (m,)
        for name, shape in expected.items():
            seen = np.shape(getattr(self, name))
            if seen != shape:
                raise ValueError(
                    f"rank list of query {self.query_id}: {name} is {seen}, not {shape}"
                )
        if len(np.unique(self.image_ids)) != m:
            raise ValueError(f"rank list of query {self.query_id} holds an image twice")
        if m > 1 and np.any(np.diff(self.similarities) > 0):
            raise ValueError(f"rank list of query {self.query_id} is not sorted by similarity")

    def __len__(self) -> int:
        return len(self.image_ids)

    def top(self, k: int) -> RankList:
        """The first k entries."""
        return self.take(np.arange(min(k, len(self))))

    def take(self, index: np.ndarray) -> RankList:
        """The entries at `index` ((K,) int), which must keep the order of similarity."""
        kept = None if self.probabilities is None else self.probabilities[index]
        return replace(
            self,
            image_ids=self.image_ids[index],
            boxes=self.boxes[index],
            similarities=self.similarities[index],
            probabilities=kept,
        )


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
        lists = self.lists
        arrays: dict[str, Any] = {
            "query_ids": np.array([one.query_id for one in lists], np.int64),
            "offsets": np.cumsum([0, *(len(one) for one in lists)]).astype(np.int64),
            "image_ids": _concatenate([one.image_ids for one in lists], (0,), np.int64),
            "boxes": _concatenate([one.boxes for one in lists], (0, 4), np.float32),
            "similarities": _concatenate([one.similarities for one in lists], (0,), np.float32),
        }
        given = [one.probabilities for one in lists if one.probabilities is not None]
        if lists and len(given) == len(lists):
            arrays["probabilities"] = _concatenate(given, (0,), np.float32)
        with open(path, "wb") as f:
            np.savez_compressed(f, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> RankLists:
        """Read what `save` wrote.

        Raises:
            ValueError: naming the file, where it is damaged or not a file of rank lists.
        """
        try:
            # numpy leaves a file open that it opened itself and cannot read.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                data = {name: archive[name] for name in archive.files}
            bounds = data["offsets"]
            return cls(
                tuple(
                    _slice(data, int(query_id), int(bounds[i]), int(bounds[i + 1]))
                    for i, query_id in enumerate(data["query_ids"])
                )
            )
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{path} is not a readable file of rank lists: {error}") from error

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


def _concatenate(parts: Sequence[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(empty, dtype)


def _slice(data: Mapping[str, np.ndarray], query_id: int, start: int, stop: int) -> RankList:
    kept = {
        name: data[name][start:stop]
        for name in ("image_ids", "boxes", "similarities", "probabilities")
        if name in data
    }
    return RankList(query_id, **kept)
