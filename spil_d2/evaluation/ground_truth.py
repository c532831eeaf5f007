"""Which gallery images show a query's instance, and where."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import BoxMode

from ..structures import Query, RankList, RankLists
from .localization import JudgedList, best_ious

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """The truth of one dataset for its queries.

    An image is relevant for a query when one of its annotations has the query's `instance_id` and
    it is not one of the query's own images.

    Attributes:
        relevant: query id -> {image id -> (G, 4) float32 boxes of the instance, XYXY_ABS in pixels
            of the stored image}; only queries with at least one relevant image.
        own_image_ids: query id -> gallery images the query was taken from; every query.
        image_ids: the whole gallery.
        skipped_query_ids: queries that have no relevant image and cannot be evaluated.
    """

    relevant: Mapping[int, Mapping[int, np.ndarray]]
    own_image_ids: Mapping[int, frozenset[int]]
    image_ids: frozenset[int]
    skipped_query_ids: tuple[int, ...] = ()

    @classmethod
    def from_dataset(cls, dataset_dicts: Iterable[dict], queries: Sequence[Query]) -> GroundTruth:
        """Collect the truth from Detectron2 dataset dicts.

        Args:
            dataset_dicts: the gallery; annotations carry "instance_id", "bbox" and "bbox_mode".
            queries: with `instance_id` known; one without it is skipped and counted.

        Raises:
            ValueError: for two queries or two images with the same id.
        """
        own = {query.id: query.own_image_ids for query in queries}
        if len(own) != len(queries):
            raise ValueError(f"{len(queries)} queries have only {len(own)} different ids")
        boxes, image_ids = _boxes_by_instance(dataset_dicts)
        relevant, skipped = {}, []
        for query in queries:
            of_instance = {} if query.instance_id is None else boxes.get(query.instance_id, {})
            images = {i: b for i, b in of_instance.items() if i not in own[query.id]}
            if images:
                relevant[query.id] = images
            else:
                skipped.append(query.id)
        if skipped:
            logger.warning(
                "%d of %d queries have no relevant gallery image besides their own and are not "
                "evaluated: %s",
                len(skipped),
                len(queries),
                _abbreviate(skipped),
            )
        return cls(relevant, own, frozenset(image_ids), tuple(skipped))

    def judge(self, rank_list: RankList) -> JudgedList:
        """Set one rank list against the truth.

        Raises:
            ValueError: for a query or an image that the dataset does not hold, a query without
                relevant images, or a box that is not finite.
        """
        query_id = rank_list.query_id
        if query_id not in self.relevant:
            raise ValueError(
                f"query {query_id} has no ground truth; {len(self.relevant)} queries have one"
            )
        unknown = [int(i) for i in rank_list.image_ids if int(i) not in self.image_ids]
        if unknown:
            raise ValueError(
                f"rank list of query {query_id} names images that are not in the gallery: "
                f"{_abbreviate(unknown)}; was it made with another dataset?"
            )
        if not np.all(np.isfinite(rank_list.boxes)):
            raise ValueError(f"rank list of query {query_id} holds a box that is not finite")
        kept = ~np.isin(rank_list.image_ids, list(self.own_image_ids[query_id]))
        image_ids, boxes = rank_list.image_ids[kept], rank_list.boxes[kept]
        truth = self.relevant[query_id]
        nothing = np.zeros((0, 4), np.float32)
        ious = best_ious(boxes, [truth.get(int(i), nothing) for i in image_ids])
        hits = np.isin(image_ids, list(truth))
        p = rank_list.probabilities
        return JudgedList(
            query_id, image_ids, hits, ious, len(truth), None if p is None else p[kept]
        )

    def judge_all(self, rank_lists: RankLists) -> tuple[JudgedList, ...]:
        """Set the rank lists of all queries against the truth, in the order of the dataset.

        A query without a rank list comes out with an empty one, so that it counts as 0, and is
        logged.

        Raises:
            ValueError: for a rank list of a query that the dataset does not hold.
        """
        unknown = [query_id for query_id in rank_lists if query_id not in self.own_image_ids]
        if unknown:
            raise ValueError(
                f"rank lists of unknown queries: {_abbreviate(unknown)}; the dataset has "
                f"{len(self.own_image_ids)} queries"
            )
        missing = self.without_results(rank_lists)
        if missing:
            logger.warning(
                "%d of %d queries have no results and count as zero: %s",
                len(missing),
                len(self.relevant),
                _abbreviate(missing),
            )
        return tuple(
            self.judge(rank_lists[query_id] if query_id in rank_lists else _empty(query_id))
            for query_id in self.relevant
        )

    def without_results(self, rank_lists: RankLists) -> list[int]:
        """Ids of the evaluated queries that have no rank list, or an empty one."""
        return [q for q in self.relevant if q not in rank_lists or not len(rank_lists[q])]


def _boxes_by_instance(
    dataset_dicts: Iterable[dict],
) -> tuple[dict[int, dict[int, np.ndarray]], set[int]]:
    boxes: dict[int, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    image_ids: set[int] = set()
    for record in dataset_dicts:
        image_id = int(record["image_id"])
        if image_id in image_ids:
            raise ValueError(f"{record.get('file_name')}: image_id {image_id} is used twice")
        image_ids.add(image_id)
        for annotation in record.get("annotations", ()):
            box = BoxMode.convert(
                list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
            )
            boxes[int(annotation["instance_id"])][image_id].append(box)
    return {
        instance: {i: np.array(found, np.float32) for i, found in images.items()}
        for instance, images in boxes.items()
    }, image_ids


def _empty(query_id: int) -> RankList:
    return RankList(
        query_id,
        np.zeros(0, np.int64),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.float32),
    )


def _abbreviate(ids: Sequence[int], shown: int = 10) -> str:
    text = ", ".join(str(i) for i in ids[:shown])
    return text if len(ids) <= shown else f"{text}, ... ({len(ids)} in all)"
