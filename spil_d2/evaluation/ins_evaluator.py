"""Judging a whole search by a protocol: files of predictions, region lists, the localizer alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.datasets.fields import DatasetError
from ..data.datasets.text_files import read_lines
from ..structures import RegionList, RegionLists
from .ins_metrics import (
    AP_FUNCTIONS,
    RECALL_LEVELS,
    QueryBoxes,
    QueryOutcome,
    ins_metrics,
    judge_query,
    precision_recall_curve,
)
from .ins_protocol import Protocol, ProtocolQuery

logger = logging.getLogger(__name__)

FindBoxes = Callable[[ProtocolQuery], QueryBoxes]


@dataclass(frozen=True)
class SearchReport:
    """A judged search.

    Attributes:
        protocol: by which.
        outcomes: of every judged query, in the order of the dataset.
        subsets: label -> the names of some of the judged queries, to be reported apart.
    """

    protocol: Protocol
    outcomes: tuple[QueryOutcome, ...]
    subsets: Mapping[str, frozenset[str]]

    def groups(self) -> dict[str, tuple[QueryOutcome, ...]]:
        """Key -> its outcomes: all queries first, then each subset as `KEY/LABEL`."""
        key = self.protocol.key
        groups = {key: self.outcomes}
        for label, names in self.subsets.items():
            groups[f"{key}/{label}"] = tuple(one for one in self.outcomes if one.name in names)
        return groups

    def metrics(self) -> dict[str, float]:
        """The metrics of all groups in percent, see `ins_metrics`."""
        threshold = self.protocol.rules.iou_threshold
        found: dict[str, float] = {}
        for key, outcomes in self.groups().items():
            found |= ins_metrics(outcomes, key, threshold)
        return found

    def curves(self) -> dict[str, np.ndarray]:
        """The precision-recall curve of each group, see `precision_recall_curve`."""
        return {key: precision_recall_curve(one) for key, one in self.groups().items()}

    def to_dict(self) -> dict:
        """Everything as plain numbers for JSON; APs and metrics in percent."""
        return {
            "protocol": self.protocol.key,
            "unit": "percent",
            "metrics": self.metrics(),
            "counts": self._counts(),
            "precision_recall": {
                "recall": RECALL_LEVELS.tolist(),
                "precision": {key: curve.tolist() for key, curve in self.curves().items()},
            },
            "per_query": {one.name: _query_to_dict(one) for one in self.outcomes},
            "skipped_queries": list(self.protocol.skipped),
        }

    def _counts(self) -> dict[str, float]:
        last = [int(one.tp_ranks[-1]) for one in self.outcomes if len(one.tp_ranks)]
        return {
            "queries": len(self.outcomes),
            "queries_skipped": len(self.protocol.skipped),
            "queries_without_boxes": sum(one.num_boxes == 0 for one in self.outcomes),
            "images": len(self.protocol.image_names),
            "ground_truth_boxes": self.protocol.num_ground_truths,
            "ranked_boxes": sum(one.num_boxes for one in self.outcomes),
            "largest_recall": max(one.recall for one in self.outcomes),
            "mean_rank_of_last_right_box": float(np.mean(last)) if last else 0.0,
        }


def judge(
    protocol: Protocol, find: FindBoxes, subsets: Mapping[str, frozenset[str]] | None = None
) -> SearchReport:
    """Judge every query of a protocol.

    Args:
        protocol: the truth.
        find: the boxes of a query; called once a query, so that they need not all be in memory.
        subsets: label -> query names, e.g. from `read_subset`.

    Raises:
        ValueError: a subset that holds no judged query.
    """
    names = frozenset(query.name for query in protocol.queries)
    subsets = dict(subsets or {})
    for label, some in subsets.items():
        if not some & names:
            raise ValueError(f"{protocol.key}: none of the queries of {label} is judged")
    threshold = protocol.rules.iou_threshold
    outcomes = tuple(
        judge_query(query, protocol.counts(query), find(query), threshold)
        for query in protocol.queries
    )
    empty = [one.name for one in outcomes if one.num_boxes == 0]
    if empty:
        logger.warning(
            "%s: %d of %d queries have no box in the images that count, and AP 0; the first is %s",
            protocol.key,
            len(empty),
            len(outcomes),
            empty[0],
        )
    return SearchReport(protocol, outcomes, subsets)


def read_subset(path: str | Path, protocol: Protocol) -> dict[str, frozenset[str]]:
    """Read a list of ids and split the queries by it, e.g. person-related and all others.

    A line holds an ID, which stands for all its queries, or a query's name `ID_k`; what follows a
    `#` is a comment.

    Args:
        path: the file; its stem names the subset.
        protocol: whose queries the file names.

    Returns:
        `subset_STEM` and, where it is not empty, `rest_STEM`: label -> query names.

    Raises:
        DatasetError: the file cannot be read.
        ValueError: an ID without a query, with file and line number.
    """
    path = Path(path)
    by_id: dict[str, set[str]] = {}
    for name in protocol.query_names:
        by_id.setdefault(name, set()).add(name)
        by_id.setdefault(name.rpartition("_")[0] or name, set()).add(name)
    chosen: set[str] = set()
    for number, fields in read_lines(path, "list of ids"):
        for field in " ".join(fields).partition("#")[0].split():
            if field not in by_id:
                raise DatasetError(f"{path}:{number}: {field!r} is no ID or query of the dataset")
            chosen |= by_id[field]
    if not chosen:
        raise ValueError(f"{path}: holds no ID")
    judged = frozenset(query.name for query in protocol.queries)
    subsets = {f"subset_{path.stem}": frozenset(chosen)}
    if judged - chosen:
        subsets[f"rest_{path.stem}"] = judged - chosen
    return subsets


def judge_regions(
    protocol: Protocol,
    lists: RegionLists,
    subsets: Mapping[str, frozenset[str]] | None = None,
) -> SearchReport:
    """Judge the region lists of a dataset.

    Args:
        protocol: of the dataset that was searched.
        lists: boxes in pixels of the stored images; a query without a list counts as AP 0.
        subsets: as for `judge`.

    Raises:
        ValueError: a list of a query, or a box on an image, that the dataset does not hold.
    """
    return judge(protocol, _Regions(protocol, lists).find, subsets)


def evaluate_regions(protocol: Protocol, lists: RegionLists) -> dict[str, float]:
    """The metrics of `judge_regions` in percent, the protocol in each key."""
    return judge_regions(protocol, lists).metrics()


def evaluate_localizer(
    protocol: Protocol, lists: RegionLists, boxes_per_image: int = 20
) -> dict[str, float]:
    """The localizer alone, in the images that show the instance ("Localization" of the paper).

    Each query is searched in its positive images alone, with the best `boxes_per_image` boxes of
    an image. The boxes of all these images are ranked by the localizer's own score.

    Args:
        protocol: of the dataset; boxes on images without a positive are left out.
        lists: with `localizer_scores`, from a search of at least the positive images.
        boxes_per_image: K.

    Returns:
        In percent: `NAME/pos/localizer/Recall@K@IoUt`, the part of a query's ground-truth boxes
        that one of the K boxes of an image matches, averaged over queries; and
        `NAME/pos/localizer/mAP@IoUt`.

    Raises:
        ValueError: as `judge_regions`; or lists without localizer scores.
    """
    protocol = protocol.positives_only()
    regions = _Regions(protocol, RegionLists(tuple(map(_by_localizer, lists.lists))))

    def find(query: ProtocolQuery) -> QueryBoxes:
        found = regions.find(query)
        first = _first_per_image(found.images, boxes_per_image)
        return QueryBoxes(found.images[first], found.boxes[first], found.scores[first])

    outcomes = judge(protocol, find).outcomes
    suffix = f"IoU{protocol.rules.iou_threshold:g}"
    key = f"{protocol.key}/localizer"
    aps = [AP_FUNCTIONS["retrieval"](one) for one in outcomes]
    return {
        f"{key}/Recall@{boxes_per_image}@{suffix}": 100.0
        * float(np.mean([one.recall for one in outcomes])),
        f"{key}/mAP@{suffix}": 100.0 * float(np.mean(aps)),
    }


def select_regions(
    one: RegionList,
    *,
    per_image: int | None = None,
    total: int | None = None,
    threshold: float | None = None,
) -> RegionList:
    """The boxes of a list that the localizer thinks most of; the order stays that of the ranker.

    Args:
        one: with `localizer_scores`.
        per_image: keep so many an image ("local").
        total: keep so many of the whole list ("global").
        threshold: keep those with a score above it ("thr").

    Raises:
        ValueError: a list without localizer scores.
    """
    scores = _localizer_scores(one)
    order = np.argsort(-scores, kind="stable")
    if threshold is not None:
        order = order[scores[order] > threshold]
    if per_image is not None:
        order = order[_first_per_image(one.image_ids[order], per_image)]
    return one.take(np.sort(order[:total]))


class _Regions:
    """Region lists with the names of a protocol."""

    def __init__(self, protocol: Protocol, lists: RegionLists) -> None:
        known = {query.query_id for query in protocol.queries} | set(protocol.skipped.values())
        unknown = sorted(query_id for query_id in lists if query_id not in known)
        if unknown:
            raise ValueError(
                f"{protocol.key}: {len(unknown)} region lists are of no query of the dataset, the "
                f"first of query {unknown[0]}; it has {len(known)} queries"
            )
        self._lists = lists
        self._order = np.argsort(protocol.image_ids)
        self._ids = protocol.image_ids[self._order]

    def find(self, query: ProtocolQuery) -> QueryBoxes:
        if query.query_id not in self._lists:
            nothing = np.zeros(0, np.int64)
            return QueryBoxes(nothing, np.zeros((0, 4), np.float32), nothing)
        one = self._lists[query.query_id]
        position = np.searchsorted(self._ids, one.image_ids).clip(max=len(self._ids) - 1)
        is_unknown = self._ids[position] != one.image_ids
        if is_unknown.any():
            raise ValueError(
                f"the region list of query {query.query_id} names image "
                f"{one.image_ids[is_unknown][0]}, which is none of the {len(self._ids)} images of "
                "the gallery; was it made with another dataset?"
            )
        return QueryBoxes(self._order[position], one.boxes, one.similarities)


def _by_localizer(one: RegionList) -> RegionList:
    scores = _localizer_scores(one)
    order = np.argsort(-scores, kind="stable")
    return RegionList(one.query_id, one.image_ids[order], one.boxes[order], scores[order])


def _localizer_scores(one: RegionList) -> np.ndarray:
    if one.localizer_scores is None:
        raise ValueError(f"the region list of query {one.query_id} has no localizer scores")
    return one.localizer_scores


def _first_per_image(images: np.ndarray, count: int) -> np.ndarray:
    """The rows, rising, that are among the first `count` of their image."""
    order = np.argsort(images, kind="stable")
    grouped = images[order]
    place = np.arange(len(grouped)) - np.searchsorted(grouped, grouped, side="left")
    return np.sort(order[place < count])


def _query_to_dict(one: QueryOutcome) -> dict:
    aps: dict[str, float] = {
        f"AP_{name}": 100.0 * function(one) for name, function in AP_FUNCTIONS.items()
    }
    ranks = one.tp_ranks
    return {
        **aps,
        "recall": 100.0 * one.recall,
        "ground_truth_boxes": one.num_gt,
        "ranked_boxes": one.num_boxes,
        "first_right_rank": int(ranks[0]) if len(ranks) else None,
        "last_right_rank": int(ranks[-1]) if len(ranks) else None,
    }
