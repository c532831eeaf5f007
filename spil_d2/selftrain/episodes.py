"""Episodes of annotated classes: what base training draws its pairs from (spec section 6, D27).

An episode shows one class: Y is an image of it with all its boxes there as targets, the crops X_p
are boxes of the class on other images, and the crops X_n are of a class that has no box in Y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import BoxMode

from ..structures import Box, Candidate, Pair, Query, QueryPool, Reference, SamplePool, Target

_MIN_SIDE = 1.0
"""Annotations of fewer pixels on a side are no boxes to learn from."""


@dataclass(frozen=True)
class Episodes:
    """Annotated images as a sample pool in which a query is a class.

    Attributes:
        queries: one a class; its id and `category_id` are the annotations' category id, its only
            reference is its first support box.
        pool: one candidate an annotation. All candidates of one image share a target: the boxes of
            the class there, the first as the box, the others as extras of weight 1. The order is
            that in which support crops are taken: shuffled, small boxes last.
        classes_of: image id -> the categories that are annotated on it, crowds included.
    """

    queries: tuple[Query, ...]
    pool: SamplePool
    classes_of: Mapping[int, frozenset[int]]


def build_episodes(gallery: Sequence[dict], *, seed: int, min_support_side: float = 0) -> Episodes:
    """Turn annotated images into episodes.

    An image with a crowd region of a class is neither a target of the class (objects of it there
    have no boxes) nor one that lacks it.

    Args:
        gallery: Detectron2 dicts with annotations (`category_id`, `bbox`, `bbox_mode`, `iscrowd`).
        seed: of the order of the support crops.
        min_support_side: boxes whose longer side has fewer pixels come last among them.

    Raises:
        ValueError: no class has a box.
    """
    classes_of: dict[int, frozenset[int]] = {}
    boxes_of: dict[int, dict[int, list[Box]]] = {}
    records = {int(one["image_id"]): one for one in gallery}
    for image_id, record in records.items():
        annotations = record["annotations"]
        classes_of[image_id] = frozenset(int(one["category_id"]) for one in annotations)
        crowded = {int(one["category_id"]) for one in annotations if one.get("iscrowd", 0)}
        for annotation in annotations:
            category = int(annotation["category_id"])
            box = _clipped(annotation, record)
            if box is not None and category not in crowded:
                boxes_of.setdefault(category, {}).setdefault(image_id, []).append(box)
    if not boxes_of:
        raise ValueError(f"none of the {len(gallery)} images for base training has a box")
    queries, pools = [], []
    for category, per_image in sorted(boxes_of.items()):
        rng = np.random.default_rng([seed, category])
        candidates = _candidates(per_image, rng, min_support_side)
        first = candidates[0]
        record = records[first.image_id]
        reference = Reference(record["file_name"], record["width"], record["height"], first.box)
        queries.append(Query(category, (reference,), category, category))
        pools.append(QueryPool(category, Target(first.box, 1.0), candidates))
    return Episodes(tuple(queries), SamplePool(0, tuple(pools)), classes_of)


def _clipped(annotation: dict, record: dict) -> Box | None:
    """The box as XYXY_ABS inside its image, or None where nothing of it is there."""
    x0, y0, x1, y1 = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    width, height = float(record["width"]), float(record["height"])
    box = (max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height))
    return box if box[2] - box[0] >= _MIN_SIDE and box[3] - box[1] >= _MIN_SIDE else None


def _candidates(
    per_image: Mapping[int, Sequence[Box]], rng: np.random.Generator, min_side: float
) -> tuple[Candidate, ...]:
    every = []
    for image_id, boxes in per_image.items():
        target = Target(boxes[0], 1.0, extras=tuple((box, 1.0) for box in boxes[1:]))
        every += [Candidate(image_id, box, target) for box in boxes]
    shuffled = [every[i] for i in rng.permutation(len(every))]
    # Stable: the order inside both groups stays random.
    return tuple(sorted(shuffled, key=lambda one: _longer_side(one.box) < min_side))


def _longer_side(box: Box) -> float:
    return max(box[2] - box[0], box[3] - box[1])


class EpisodeSampler:
    """Draws episodes as pairs; each class as often as any other.

    A draw is a function of the generator alone, so that a resumed run draws what the undisturbed
    one would have drawn.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        num_crops: int = 5,
        max_supports: int = -1,
        contrastive: bool = True,
    ):
        """
        Args:
            episodes: of `build_episodes`.
            num_crops: n of Eq. 3.
            max_supports: support crops are of the first so many candidates of a class, -1 all.
            contrastive: pair each item with a class that is absent from Y (D8).

        Raises:
            ValueError: no class has boxes on two images.
        """
        self._num_crops = num_crops
        self._contrastive = contrastive
        self._classes_of = episodes.classes_of
        self._images: dict[int, np.ndarray] = {}
        self._targets: dict[int, np.ndarray] = {}
        self._num_supports: dict[int, int] = {}
        for one in episodes.pool.queries:
            images = np.array([candidate.image_id for candidate in one.candidates])
            count = len(images) if max_supports < 0 else min(max_supports, len(images))
            shown = np.unique(images[:count])
            # Y needs a crop from elsewhere: where one image has all, that one is no Y.
            targets = np.unique(images) if len(shown) > 1 else np.setdiff1d(images, shown)
            self._images[one.query_id] = images
            self._num_supports[one.query_id] = count
            self._targets[one.query_id] = targets if count else targets[:0]
        self.query_ids = tuple(q for q, targets in self._targets.items() if len(targets))
        if not self.query_ids:
            raise ValueError(
                "no class of the base training has boxes on two images: an episode needs one to "
                "look at and another to take crops from"
            )

    def draw(self, query_id: int, rng: np.random.Generator) -> Pair:
        """An episode of one of `query_ids`: support positions and Y's are those in the pool."""
        images = self._images[query_id]
        image_id = int(rng.choice(self._targets[query_id]))
        target = int(np.flatnonzero(images == image_id)[0])
        support = self._support(query_id, image_id, rng)
        present = self._classes_of[image_id]
        absent = [q for q, count in self._num_supports.items() if count and q not in present]
        if not self._contrastive or not absent:
            return Pair(query_id, target, support)
        negative_id = absent[rng.integers(len(absent))]
        return Pair(
            query_id, target, support, negative_id, self._support(negative_id, image_id, rng)
        )

    def _support(self, query_id: int, image_id: int, rng: np.random.Generator) -> tuple[int, ...]:
        """At most n distinct positions, none on the image."""
        images = self._images[query_id][: self._num_supports[query_id]]
        others = np.flatnonzero(images != image_id)
        chosen = rng.choice(others, min(self._num_crops, len(others)), replace=False)
        return tuple(int(i) for i in chosen)
