"""The contract of an index of regions, which every backend keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...structures import RankLists
from ..engines.base import Regions


class RegionIndex(ABC):
    """Regions of gallery images. An image's similarity is the largest of its regions'.

    Embeddings are kept once, in half precision; similarities are computed in single precision.
    A centred index subtracts a mean embedding from its vectors and from the queries before the
    cosine: what all pictures have in common then counts for nothing. The mean is that of all
    embeddings when the index is first persisted, and again when it has since doubled or halved,
    or on `compact`; in between it stays, so that adding an image touches no other. All backends
    take it at the same moments. An index that was never persisted uses the mean of what it holds.

    What `add` and `delete` do is seen by `search` at once, and is on the disk after `persist`; a
    process killed before or in the middle of `persist` leaves the index as it was persisted last.
    One process writes at a time. Any number may read at once; a reader sees the index as it was
    when the reader opened it. Searching is thread safe as long as no thread adds or deletes.
    """

    backend: ClassVar[str]

    @property
    @abstractmethod
    def is_centred(self) -> bool:
        """Whether similarities are cosines of centred vectors."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @property
    @abstractmethod
    def num_regions(self) -> int:
        """Number of regions of all images."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of an embedding; 0 before the first image."""

    @property
    @abstractmethod
    def image_ids(self) -> np.ndarray:
        """(number of images,) int64, in no order that means anything."""

    @abstractmethod
    def add(self, image_ids: Sequence[int], regions: Sequence[Regions]) -> None:
        """Append images with their regions; all of them or, on an error, none.

        Raises:
            ValueError: for an image that is there already, has no region, or whose embeddings have
                another dimension than the index or values that half precision cannot hold.
        """

    @abstractmethod
    def delete(self, image_ids: Collection[int]) -> None:
        """Take images out; their ids may be added again.

        Raises:
            ValueError: for an image that is not there; then none is taken out.
        """

    @abstractmethod
    def search(
        self,
        query_ids: Sequence[int],
        embeddings: np.ndarray,
        k: int,
        excluded: Sequence[Collection[int]] | None = None,
        allowed: Collection[int] | None = None,
    ) -> RankLists:
        """Rank the images for each query.

        Args:
            query_ids: Q ids.
            embeddings: (Q, D) float32, L2-normalized.
            k: length of the lists at most; they are shorter only where fewer images may be ranked.
            excluded: for each query the image ids that must not be ranked; None for none.
            allowed: the only image ids that may be ranked, for all queries; None for all.
                Ids that are not in the index mean nothing here, in both.

        Returns:
            Q rank lists with each image's most similar region; equal similarities are ordered by
            image id.

        Raises:
            ValueError: the index is empty, k < 1, or the queries have another dimension.
        """

    @abstractmethod
    def compare(self, query_embeddings: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """Similarities as `search` computes them, for regions that need not be in the index.

        Args:
            query_embeddings: (Q, D), L2-normalized.
            embeddings: (R, D), L2-normalized.

        Returns:
            (Q, R) float32 cosines, of the centred vectors where the index is centred.
        """

    @abstractmethod
    def regions_of(self, image_id: int) -> Regions:
        """An image's regions as they were added, in half precision.

        Raises:
            KeyError: the image is not in the index.
        """

    @abstractmethod
    def persist(self) -> None:
        """Publish what was added and deleted since the last time.

        Writes the new images and, so that there are never many parts, older parts that are not
        larger: each vector is rewritten a logarithmic number of times.

        Raises:
            RuntimeError: another process is writing, or has written since this index was opened.
            ValueError: the index has no directory; use `save`.
        """

    @abstractmethod
    def compact(self) -> None:
        """Persist as one part without the deleted images, centred by the present mean."""

    @abstractmethod
    def save(self, directory: str | Path, *, is_centred: bool | None = None) -> None:
        """Write a compacted copy into a directory, which may exist but must hold no index.

        Args:
            directory: of the copy.
            is_centred: whether the copy is; None for as this one.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; the index cannot be used afterwards."""

    @classmethod
    @abstractmethod
    def create(
        cls, directory: str | Path | None, *, is_centred: bool = False, **options: Any
    ) -> RegionIndex:
        """A new, empty index; in memory, where no directory is given.

        Raises:
            FileExistsError: the directory holds an index.
        """

    @classmethod
    @abstractmethod
    def open(cls, directory: str | Path, **options: Any) -> RegionIndex:
        """The index that was persisted or saved in a directory; its vectors stay on the disk.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: naming the directory, where its files are damaged or do not belong together.
        """

    def __enter__(self) -> RegionIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
