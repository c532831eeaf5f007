"""What counts for each query: the INS and person-search protocols as data.

The protocols differ in which images a query is searched in (`gallery_range`), in whether an image
of the query's own camera may be a positive (`separate_cameras`), and in the smallest query.
Everything else is the same (`ins_metrics`). The protocol is part of every metric's key.

Taken out of a ranking before anything is matched, as whole images: the query's own image; with
separate cameras every *positive* image of the query's camera (its other images stay as
distractors); with a local range every image outside the query's list; with "pos" every image
without a positive.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal

import numpy as np

from ..data.datasets.ins_annotations import camera_of

logger = logging.getLogger(__name__)

GalleryRange = Literal["global", "local", "pos"]


@dataclass(frozen=True)
class ProtocolRules:
    """One row of the table of protocols; `dataclasses.replace` makes a variant, told in the key.

    Attributes:
        name: of the preset, e.g. "ins_prw".
        gallery_range: "global": every image; "local": the query's list; "pos": its positives.
        separate_cameras: positives of the query's own camera do not count.
        min_height: queries with lower boxes are left out, in pixels.
        iou_threshold: a box is right when its IoU is *above* this.
        keep_listed_query_image: leave the query's own image in where its local gallery lists it,
            so that boxes on it count as wrong, as the official code does.
    """

    name: str
    gallery_range: GalleryRange
    separate_cameras: bool = False
    min_height: int = 10
    iou_threshold: float = 0.5
    keep_listed_query_image: bool = False

    def key(self, label: str | None = None) -> str:
        """What metrics are named after, e.g. "ins_prw/global".

        Args:
            label: names the set of searched images; None takes the range.
        """
        name = self.gallery_range if self.gallery_range == "pos" or not label else label
        variant = ""
        if self.separate_cameras != PRESETS[self.name].separate_cameras:
            variant = "+separate_cameras" if self.separate_cameras else "+all_cameras"
        if self.keep_listed_query_image:
            variant += "+query_image"
        return f"{self.name}/{name}{variant}"


PRESETS: Mapping[str, ProtocolRules] = MappingProxyType(
    {
        rules.name: rules
        for rules in (
            ProtocolRules("ins_prw", "global", separate_cameras=True),
            ProtocolRules("ins_cuhk_sysu", "local"),
            ProtocolRules("prw", "global", min_height=50),
            ProtocolRules("cuhk_sysu", "local"),
            ProtocolRules("ins", "global", min_height=0),
        )
    }
)
"""Name of a protocol -> its rules; "ins" is any dataset in our own format."""


@dataclass(frozen=True)
class QueryTruth:
    """One query before a protocol is applied. Shape shorthand: P positive boxes.

    Attributes:
        name: as predictions call it.
        query_id: as a `RegionList` calls it.
        own_images: names of the images it was taken from.
        height: of its box, in pixels of the stored image.
        positives: (image name, XYXY_ABS box) of every positive outside its own images.
        gallery: names of the images of its local gallery, None where it has none.
    """

    name: str
    query_id: int
    own_images: tuple[str, ...]
    height: float
    positives: tuple[tuple[str, Sequence[float]], ...]
    gallery: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ProtocolQuery:
    """One query as it is judged. Shape shorthand: P ground-truth boxes.

    Images are positions in the `image_names` of the protocol.

    Attributes:
        name, query_id: of the query.
        gt_images: (P,) int64, the image of each box that is to be found, rising.
        gt_boxes: (P, 4) float64, XYXY_ABS in pixels of the stored image.
        ignored: (K,) int64, images whose boxes are taken out of the ranking.
        searched: (S,) int64, the only images whose boxes count; None where all do.
    """

    name: str
    query_id: int
    gt_images: np.ndarray
    gt_boxes: np.ndarray
    ignored: np.ndarray
    searched: np.ndarray | None = None


@dataclass(frozen=True)
class Protocol:
    """A protocol applied to one dataset.

    Attributes:
        rules: what was applied.
        key: what metrics are named after, e.g. "ins_prw/global".
        image_names: (I,) the gallery, sorted; ties of scores are in this order.
        image_ids: (I,) int64, as a `RegionList` calls them.
        queries: the queries that are judged, each with at least one ground-truth box.
        skipped: name -> id of the queries that cannot be judged or are too small.
    """

    rules: ProtocolRules
    key: str
    image_names: tuple[str, ...]
    image_ids: np.ndarray
    queries: tuple[ProtocolQuery, ...]
    skipped: Mapping[str, int]

    @cached_property
    def image_index(self) -> Mapping[str, int]:
        """Image name -> its position."""
        return {name: i for i, name in enumerate(self.image_names)}

    @property
    def query_names(self) -> tuple[str, ...]:
        """Every query of the dataset, judged or skipped."""
        return (*(query.name for query in self.queries), *self.skipped)

    @property
    def num_ground_truths(self) -> int:
        """The boxes to be found, over all queries."""
        return sum(len(query.gt_images) for query in self.queries)

    def counts(self, query: ProtocolQuery) -> np.ndarray:
        """(I,) bool, whether boxes on an image count for the query."""
        if query.searched is None:
            kept = np.ones(len(self.image_names), bool)
        else:
            kept = np.zeros(len(self.image_names), bool)
            kept[query.searched] = True
        kept[query.ignored] = False
        return kept

    def positives_only(self) -> Protocol:
        """The same queries, each searched in its positive images alone (range "pos")."""
        rules = replace(self.rules, gallery_range="pos")
        queries = tuple(replace(q, searched=np.unique(q.gt_images)) for q in self.queries)
        return replace(self, rules=rules, key=rules.key(), queries=queries)


def build_protocol(
    rules: ProtocolRules,
    image_ids: Mapping[str, int],
    truths: Iterable[QueryTruth],
    label: str | None = None,
) -> Protocol:
    """Apply the rules to a dataset.

    Args:
        rules: one of `PRESETS`, or a variant of it.
        image_ids: name of each gallery image -> its id.
        truths: the queries.
        label: names the set of searched images in the key; None takes the range.

    Raises:
        ValueError: a local range and a query without a gallery, a positive or a searched image
            that is no image of the dataset, or a query named twice.
    """
    names = sorted(image_ids)
    index = {name: i for i, name in enumerate(names)}
    truths = list(truths)
    if len({truth.name for truth in truths}) != len(truths):
        raise ValueError(f"{rules.name}: two queries have the same name")
    queries, skipped = [], {}
    for truth in truths:
        query = _apply(rules, truth, index)
        if len(query.gt_images) and truth.height >= rules.min_height:
            queries.append(query)
        else:
            skipped[truth.name] = truth.query_id
    if skipped:
        logger.warning(
            "%s: %d of %d queries have no positive image, or a box below %d pixels, and are not "
            "judged",
            rules.name,
            len(skipped),
            len(truths),
            rules.min_height,
        )
    ids = np.array([image_ids[name] for name in names], np.int64)
    return Protocol(
        rules, rules.key(label), tuple(names), ids, tuple(queries), MappingProxyType(skipped)
    )


def _apply(rules: ProtocolRules, truth: QueryTruth, index: Mapping[str, int]) -> ProtocolQuery:
    same_camera: set[str] = set()
    if rules.separate_cameras:
        cameras = {camera_of(name) for name in truth.own_images}
        same_camera = {name for name, _ in truth.positives if camera_of(name) in cameras}
    searched = _searched(truth, rules.gallery_range)
    wanted = [
        (_position(name, index, truth), box)
        for name, box in truth.positives
        if name not in same_camera and (searched is None or name in searched)
    ]
    wanted.sort(key=lambda one: one[0])
    is_own_kept = rules.gallery_range == "local" and rules.keep_listed_query_image
    ignored = same_camera if is_own_kept else {*same_camera, *truth.own_images}
    return ProtocolQuery(
        truth.name,
        truth.query_id,
        np.array([image for image, _ in wanted], np.int64),
        np.array([box for _, box in wanted], np.float64).reshape(-1, 4),
        np.array(sorted(index[name] for name in ignored if name in index), np.int64),
        None if searched is None else _positions(searched, index, truth),
    )


def _searched(truth: QueryTruth, reach: GalleryRange) -> frozenset[str] | None:
    if reach == "global":
        return None
    if reach == "pos":
        return frozenset(name for name, _ in truth.positives)
    if truth.gallery is None:
        raise ValueError(f"query {truth.name} has no local gallery; the protocol searches in one")
    return frozenset(truth.gallery)


def _positions(names: Iterable[str], index: Mapping[str, int], truth: QueryTruth) -> np.ndarray:
    return np.array(sorted(_position(name, index, truth) for name in names), np.int64)


def _position(name: str, index: Mapping[str, int], truth: QueryTruth) -> int:
    if name not in index:
        raise ValueError(
            f"query {truth.name} names image {name!r}, which is none of the {len(index)} images of "
            "the gallery"
        )
    return index[name]
