"""An exact index of regions: a gallery's embeddings, searched by matrix products."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from ..structures import RankList, RankLists
from .engines.base import Regions

_EMBEDDINGS_NAME = "embeddings.npy"
_REGIONS_NAME = "regions.npz"
_BLOCK = 65536


class RegionIndex:
    """Regions of gallery images. An image's similarity is the largest of its regions'.

    Embeddings are kept as float16; similarities are computed in float32. A centred index subtracts
    the mean of its embeddings from them and from the queries before the cosine: what all pictures
    have in common then counts for nothing.
    """

    def __init__(self, *, is_centred: bool = False) -> None:
        self.is_centred = is_centred
        self.image_ids = np.zeros(0, np.int64)
        self.offsets = np.zeros(1, np.int64)
        self.boxes = np.zeros((0, 4), np.float32)
        self.saliency = np.zeros(0, np.float32)
        self.embeddings = np.zeros((0, 0), np.float16)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def num_regions(self) -> int:
        return len(self.boxes)

    def add(self, image_ids: Sequence[int], regions: Sequence[Regions]) -> None:
        """Append images with their regions.

        Raises:
            ValueError: for an image that is there already, has no region, or whose embeddings have
                another dimension than the index.
        """
        if len(image_ids) != len(regions):
            raise ValueError(f"{len(image_ids)} image ids for {len(regions)} sets of regions")
        if not regions:
            return
        ids = np.concatenate([self.image_ids, np.asarray(image_ids, np.int64)])
        if len(np.unique(ids)) != len(ids):
            raise ValueError("an image is added to the index twice: image ids must be unique")
        size = self.embeddings.shape[1] or regions[0].embeddings.shape[1]
        for image_id, one in zip(image_ids, regions):
            if len(one.boxes) == 0 or one.embeddings.shape[1] != size:
                raise ValueError(
                    f"image {image_id}: embeddings {one.embeddings.shape}, an index of dimension "
                    f"{size} needs (R, {size}) with R > 0"
                )
        new = np.concatenate([one.embeddings for one in regions]).astype(np.float16)
        self.embeddings = np.concatenate([self.embeddings.reshape(-1, size), new])
        self.boxes = np.concatenate([self.boxes, *(one.boxes for one in regions)])
        self.saliency = np.concatenate([self.saliency, *(one.saliency for one in regions)])
        ends = self.offsets[-1] + np.cumsum([len(one.boxes) for one in regions])
        self.offsets = np.concatenate([self.offsets, ends])
        self.image_ids = ids

    def search(
        self,
        query_ids: Sequence[int],
        embeddings: np.ndarray,
        k: int,
        excluded: Sequence[Collection[int]] | None = None,
    ) -> RankLists:
        """Rank the images for each query.

        Args:
            query_ids: Q ids.
            embeddings: (Q, D) float32, L2-normalized.
            k: length of the lists at most.
            excluded: for each query the image ids that must not be ranked; None for none.

        Returns:
            Q rank lists with each image's most similar region; equal similarities are ordered by
            image id.
        """
        if k < 1 or not len(self):
            raise ValueError(f"search of {len(self)} images for the best {k}: both must be > 0")
        if embeddings.shape != (len(query_ids), self.embeddings.shape[1]):
            raise ValueError(
                f"query embeddings are {embeddings.shape}, not "
                f"({len(query_ids)}, {self.embeddings.shape[1]})"
            )
        similarities = self._similarities(embeddings)
        left_out = excluded if excluded is not None else [()] * len(query_ids)
        return RankLists(
            tuple(
                self._rank(int(query_id), one, k, skip)
                for query_id, one, skip in zip(query_ids, similarities, left_out)
            )
        )

    def compare(self, query_embeddings: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Similarities as `search` computes them, for regions that need not be in the index.

        Args:
            query_embeddings: (Q, D), L2-normalized.
            embeddings: (R, D), L2-normalized.

        Returns:
            (Q, R) float32 cosines, of the centred vectors where the index is centred.
        """
        if not self.is_centred:
            return query_embeddings @ embeddings.T
        mean = self.embeddings.mean(axis=0, dtype=np.float32)
        return _unit(query_embeddings - mean) @ _unit(embeddings - mean).T

    def _similarities(self, embeddings: np.ndarray) -> np.ndarray:
        """(Q, number of regions) float32."""
        blocks = [
            self.compare(embeddings, self.embeddings[start : start + _BLOCK].astype(np.float32))
            for start in range(0, self.num_regions, _BLOCK)
        ]
        return np.concatenate(blocks, axis=1)

    def _rank(
        self, query_id: int, similarities: np.ndarray, k: int, skip: Collection[int]
    ) -> RankList:
        best = np.maximum.reduceat(similarities, self.offsets[:-1])
        order = np.lexsort((self.image_ids, -best))
        order = order[~np.isin(self.image_ids[order], list(skip))][:k]
        starts, ends = self.offsets[order], self.offsets[order + 1]
        regions = [a + int(np.argmax(similarities[a:b])) for a, b in zip(starts, ends)]
        return RankList(query_id, self.image_ids[order], self.boxes[regions], best[order])

    def save(self, directory: str | Path) -> None:
        """Write `embeddings.npy` and `regions.npz` into an existing directory (no pickle)."""
        directory = Path(directory)
        np.save(directory / _EMBEDDINGS_NAME, self.embeddings, allow_pickle=False)
        np.savez(
            directory / _REGIONS_NAME,
            image_ids=self.image_ids,
            offsets=self.offsets,
            boxes=self.boxes,
            saliency=self.saliency,
            is_centred=self.is_centred,
        )

    @classmethod
    def open(cls, directory: str | Path) -> RegionIndex:
        """Read what `save` wrote; the embeddings stay on disk until they are searched.

        Raises:
            ValueError: naming the directory, where its files are damaged or do not belong together.
        """
        directory = Path(directory)
        index = cls()
        try:
            index.embeddings = np.load(
                directory / _EMBEDDINGS_NAME, mmap_mode="r", allow_pickle=False
            )
            with (
                open(directory / _REGIONS_NAME, "rb") as f,
                np.load(f, allow_pickle=False) as data,
            ):
                index.image_ids, index.offsets = data["image_ids"], data["offsets"]
                index.boxes, index.saliency = data["boxes"], data["saliency"]
                index.is_centred = bool(data["is_centred"])
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{directory} is not a readable region index: {error}") from error
        counts = {len(index.embeddings), len(index.boxes), int(index.offsets[-1])}
        if len(counts) != 1 or len(index.offsets) != len(index.image_ids) + 1:
            raise ValueError(f"{directory}: its files are not of one region index: build it again")
        return index


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
