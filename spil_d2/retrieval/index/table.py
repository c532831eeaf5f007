"""What is known of regions besides their vectors, and the mean that vectors are centred by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from ...utils.reading import open_arrays
from ..engines.base import Regions

_OF_ROWS = ("saliency", "lengths")


@dataclass(frozen=True)
class RegionTable:
    """Regions of images, an image's together. Shape shorthand: I images, R regions.

    Attributes:
        image_ids: (I,) int64, no image twice.
        offsets: (I + 1,) int64; image i has the rows offsets[i] to offsets[i + 1].
        boxes: (R, 4) float32, XYXY_ABS.
        saliency: (R,) float32.
        lengths: (R,) float32, of the centred embeddings; ones where they are not centred.
    """

    image_ids: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    saliency: np.ndarray
    lengths: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        seen = [self.offsets.shape, self.boxes.shape, self.saliency.shape, self.lengths.shape]
        if seen != [(len(self.image_ids) + 1,), (count, 4), (count,), (count,)] or (
            self.offsets[0] != 0 or self.offsets[-1] != count or np.any(self.counts < 1)
        ):
            raise ValueError(
                f"{len(self.image_ids)} images: offsets, boxes, saliency and lengths of shapes "
                f"{seen} do not belong together"
            )

    @classmethod
    def of(cls, image_ids: Sequence[int], regions: Sequence[Regions]) -> RegionTable:
        """The table of images that are not centred."""
        counts = [len(one.boxes) for one in regions]
        return cls(
            np.asarray(image_ids, np.int64),
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            np.concatenate([one.boxes for one in regions]).astype(np.float32),
            np.concatenate([one.saliency for one in regions]).astype(np.float32),
            np.ones(sum(counts), np.float32),
        )

    @classmethod
    def join(cls, tables: Sequence[RegionTable]) -> RegionTable:
        """One table of the images of several."""
        counts = np.concatenate([one.counts for one in tables])
        return cls(
            np.concatenate([one.image_ids for one in tables]),
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            *(
                np.concatenate([getattr(one, name) for one in tables])
                for name in ("boxes", "saliency", "lengths")
            ),
        )

    def take(self, images: np.ndarray) -> RegionTable:
        """The table of the images that a mask (I,) keeps."""
        rows = np.repeat(images, self.counts)
        return RegionTable(
            self.image_ids[images],
            np.concatenate([[0], np.cumsum(self.counts[images], dtype=np.int64)]),
            self.boxes[rows],
            self.saliency[rows],
            self.lengths[rows],
        )

    @property
    def counts(self) -> np.ndarray:
        """(I,) regions of each image."""
        return np.diff(self.offsets)

    @cached_property
    def image_of_row(self) -> np.ndarray:
        """(R,) int64 places in `image_ids`."""
        return np.repeat(np.arange(len(self.image_ids)), self.counts)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.image_ids)

    def find(self, image_ids: np.ndarray) -> np.ndarray:
        """Places in `image_ids` of those of the ids that are here, in their order."""
        places = np.searchsorted(self.image_ids, image_ids, sorter=self._order)
        found = self._order[np.minimum(places, len(self.image_ids) - 1)]
        return found[self.image_ids[found] == image_ids]

    def save(self, path: Path) -> None:
        """Write one .npz (no pickle)."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> RegionTable:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming the file, where it is damaged.
        """
        with open_arrays(path, "table of regions") as arrays:
            image_ids = arrays.read("image_ids", "i", None)
            if len(np.unique(image_ids)) != len(image_ids):
                raise arrays.error("an image is there twice")
            offsets = arrays.read("offsets", "i", len(image_ids) + 1)
            boxes = arrays.read("boxes", "f", None, 4)
            rows = [boxes, *(arrays.read(name, "f", len(boxes)) for name in _OF_ROWS)]
            return cls(image_ids, offsets, *(one.astype(np.float32, copy=False) for one in rows))


@dataclass(frozen=True)
class Centring:
    """Turns embeddings into the vectors that are stored and searched by inner product, and back.

    Attributes:
        mean: (D,) float32, or None for an index that is not centred.
        num_regions: of how many regions it is the mean.
    """

    mean: np.ndarray | None = None
    num_regions: int = 0

    def encode(self, embeddings: np.ndarray) -> np.ndarray:
        """(N, D) float32 vectors of embeddings (N, D)."""
        embeddings = embeddings.astype(np.float32, copy=False)
        if self.mean is None:
            return embeddings
        return (embeddings - self.mean) / self.lengths(embeddings)[:, None]

    def lengths(self, embeddings: np.ndarray) -> np.ndarray:
        """(N,) float32, what `encode` divides by."""
        if self.mean is None:
            return np.ones(len(embeddings), np.float32)
        parts = embeddings.astype(np.float32, copy=False) - self.mean
        return np.maximum(np.linalg.norm(parts, axis=1), 1e-12)

    def decode(self, vectors: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """(N, D) float32 embeddings of vectors (N, D) with their lengths (N,)."""
        vectors = vectors.astype(np.float32)
        return vectors if self.mean is None else vectors * lengths[:, None] + self.mean
