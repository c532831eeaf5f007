"""Which images a seed is searched in (CST, spec 5.1 and 5.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from ..structures import Query

SCOPES = ("all", "shard", "shortlist", "own")
"""Images that a seed is searched in: "all" unlabeled ones (the paper), the "shard" of the round,
the seed's "shortlist" of images that look like it, or its "own" one and its neighbours in the same
folder (the released code)."""

Shortlist = Callable[[Query, int], np.ndarray]
"""(seed, length) -> ids (M,) of at most `length` images that hold what looks like the seed, best
first; e.g. an `EmbeddingShortlist`, or the search of a region index."""


@dataclass(frozen=True)
class SearchPlan(Mapping):
    """The images of each seed. A mapping seed id -> image ids (M,) int64, ascending."""

    images: Mapping[int, np.ndarray]

    def __getitem__(self, seed_id: int) -> np.ndarray:
        return self.images[seed_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def by_image(self) -> dict[int, np.ndarray]:
        """Image id -> ids (S,) int64 of its seeds, both ascending: an image is encoded once."""
        if not self.images:
            return {}
        counts = [len(one) for one in self.images.values()]
        seeds = np.repeat(np.fromiter(self.images, np.int64, len(counts)), counts)
        images = np.concatenate(list(self.images.values()))
        order = np.lexsort((seeds, images))
        seeds, images = seeds[order], images[order]
        names, starts = np.unique(images, return_index=True)
        parts = np.split(seeds, starts[1:])
        return dict(zip(names.tolist(), parts))


class SeedSearch:
    """Plans the search of a round."""

    def __init__(
        self,
        gallery: Mapping[int, dict],
        *,
        scope: str = "all",
        num_shards: int = 1,
        shortlist_length: int = 100,
        shortlist: Shortlist | None = None,
        folder_neighbors: int = 0,
        keep_own_image: bool = False,
        seed: int = 0,
    ):
        """
        Args:
            gallery: image id -> Detectron2 dataset dict, of all unlabeled images.
            scope: one of `SCOPES`.
            num_shards: parts that "shard" splits the images into at random; round r searches part
                r modulo their number.
            shortlist_length: images of "shortlist".
            shortlist: finds them.
            folder_neighbors: positions before and after the seed's own image, in the sorted list of
                files of its folder, that "own" searches as well.
            keep_own_image: the seed's own image is searched too.
            seed: of the split into shards.

        Raises:
            ValueError: a scope that is unknown, lacks what it needs, or would be empty.
        """
        if scope not in SCOPES:
            raise ValueError(f"CST.RANK_LISTS.SCOPE is {scope!r}: use one of {SCOPES}")
        if scope == "shortlist" and (shortlist is None or shortlist_length < 1):
            raise ValueError("the scope 'shortlist' needs a shortlist and a length of at least 1")
        if num_shards < 1 or folder_neighbors < 0:
            raise ValueError(
                "CST.RANK_LISTS needs NUM_SHARDS >= 1 and FOLDER_NEIGHBORS >= 0, got "
                f"{num_shards} and {folder_neighbors}"
            )
        if scope == "own" and folder_neighbors == 0 and not keep_own_image:
            raise ValueError(
                "CST.RANK_LISTS.SCOPE 'own' without KEEP_OWN_IMAGE and with FOLDER_NEIGHBORS 0 "
                "leaves nothing to search: set one of them"
            )
        self._gallery = gallery
        self._scope = scope
        self._num_shards = num_shards
        self._length = shortlist_length
        self._shortlist = shortlist
        self._reach = folder_neighbors
        self._keep_own_image = keep_own_image
        self._seed = seed

    def plan(self, seeds: Sequence[Query], round_index: int) -> SearchPlan:
        """The images of each seed in a round; without its own one unless that is kept."""
        images = self._images(round_index)
        return SearchPlan({seed.id: self._finish(seed, images(seed)) for seed in seeds})

    def _images(self, round_index: int) -> Callable[[Query], np.ndarray]:
        every = np.array(sorted(self._gallery), np.int64)
        if self._scope == "shard":
            every = _shard(every, round_index % self._num_shards, self._num_shards, self._seed)
        if self._scope == "own":
            folders = _folders(self._gallery)
            return lambda seed: _neighbors(seed, self._gallery, folders, self._reach)
        if self._scope == "shortlist":
            return self._shortlisted
        return lambda seed: every

    def _shortlisted(self, seed: Query) -> np.ndarray:
        assert self._shortlist is not None, "checked by the constructor"
        # One more for each image that may be left out below.
        spare = 0 if self._keep_own_image else len(seed.own_image_ids)
        found = np.asarray(self._shortlist(seed, self._length + spare), np.int64)
        if not self._keep_own_image:
            found = found[~np.isin(found, list(seed.own_image_ids))]
        return np.sort(found[: self._length])

    def _finish(self, seed: Query, images: np.ndarray) -> np.ndarray:
        if self._keep_own_image:
            return images
        is_own = np.isin(images, list(seed.own_image_ids))
        # Most seeds of a shard share one array.
        return images[~is_own] if is_own.any() else images


def _shard(image_ids: np.ndarray, shard: int, num_shards: int, seed: int) -> np.ndarray:
    mixed = np.random.default_rng(seed).permutation(image_ids)
    return np.sort(mixed[shard::num_shards])


def _folders(gallery: Mapping[int, dict]) -> dict[str, list[int]]:
    """Folder -> image ids in the order of their file names."""
    folders: dict[str, list[int]] = {}
    for image_id in sorted(gallery, key=lambda one: str(gallery[one]["file_name"])):
        folders.setdefault(_folder(gallery[image_id]), []).append(image_id)
    return folders


def _folder(record: dict) -> str:
    return str(PurePath(record["file_name"]).parent)


def _neighbors(
    seed: Query, gallery: Mapping[int, dict], folders: Mapping[str, list[int]], reach: int
) -> np.ndarray:
    image_id = seed.primary.image_id
    if image_id is None or image_id not in gallery:
        raise ValueError(f"seed {seed.id} was taken from no image of the gallery, but {image_id}")
    files = folders[_folder(gallery[image_id])]
    place = files.index(image_id)
    return np.array(sorted(files[max(0, place - reach) : place + reach + 1]), np.int64)


class EmbeddingShortlist:
    """A `Shortlist` out of arrays: an image is as similar as its most similar region."""

    def __init__(
        self,
        seed_embeddings: Mapping[int, np.ndarray],
        embeddings: np.ndarray,
        image_ids: np.ndarray,
    ):
        """
        Args:
            seed_embeddings: seed id -> (D,), L2-normalized.
            embeddings: (R, D) of the images' regions, or one for each image, L2-normalized.
            image_ids: (R,) int, whose they are.
        """
        if image_ids.shape != embeddings.shape[:1]:
            raise ValueError(f"{embeddings.shape[0]} embeddings, but image_ids {image_ids.shape}")
        self._seeds = seed_embeddings
        order = np.argsort(image_ids, kind="stable")
        self._embeddings = embeddings[order]
        self._image_ids, self._starts = np.unique(image_ids[order], return_index=True)

    def __call__(self, seed: Query, length: int) -> np.ndarray:
        """See `Shortlist`; ties go to the smaller image id."""
        similarities = self._embeddings @ self._seeds[seed.id]
        best = np.maximum.reduceat(similarities, self._starts)
        return self._image_ids[np.argsort(-best, kind="stable")[:length]]
