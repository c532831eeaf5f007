"""Instance-search metrics: one ranking of boxes over all images, a box right when IoU > threshold.

The boxes of a query go into one list by falling score; ties are in the order of the image names,
then of the boxes as they were given. Walking down the list, a box belongs to the ground-truth box
of its image that it overlaps most; the first box with an IoU *above* the threshold consumes it and
is right, every other box is wrong. IoU is intersection over union in float64, without any +1.
Everything that is measured follows from the ranks of the right boxes.

Shape shorthand: N boxes, I images, P ground-truth boxes, T right boxes (true positives), Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..ops.numpy_boxes import paired_iou
from .ins_protocol import ProtocolQuery

CMC_RANKS = (1, 5, 10, 20)
"""Where rank-k, precision@k and recall@k are taken."""

RECALL_LEVELS = np.arange(101) / 100
"""0, .01, ..., 1: where the precision-recall curve is sampled."""


class QueryBoxes(NamedTuple):
    """The boxes found for one query, in any order.

    Attributes:
        images: (N,) int, positions in the `image_names` of the protocol.
        boxes: (N, 4) float, XYXY_ABS in pixels of the stored image; without area it is no match.
        scores: (N,) float, finite, higher = better.
    """

    images: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class QueryOutcome:
    """One judged query.

    Attributes:
        name: of the query.
        num_gt: P, at least 1.
        num_boxes: boxes left in the ranking.
        tp_ranks: (T,) int64, the ranks of the right boxes, from 1, rising; T <= P.
    """

    name: str
    num_gt: int
    num_boxes: int
    tp_ranks: np.ndarray

    @property
    def recall(self) -> float:
        """The part of the ground-truth boxes that the whole list finds."""
        return len(self.tp_ranks) / self.num_gt

    def hits(self, k: int) -> int:
        """Right boxes among the first k."""
        return int(np.searchsorted(self.tp_ranks, k, side="right"))

    def precision(self, k: int) -> float:
        """The right part of the first k boxes.

        Where the last ground-truth box is found at a rank r < k, the first r count: more cannot be
        right. A list that ends before k without that is filled up with wrong boxes.
        """
        is_complete = self.hits(k) == self.num_gt
        return self.hits(k) / (int(self.tp_ranks[-1]) if is_complete else k)


def judge_query(
    query: ProtocolQuery, counts: np.ndarray, found: QueryBoxes, iou_threshold: float = 0.5
) -> QueryOutcome:
    """Rank the boxes of one query and set them against the truth.

    Args:
        query: its ground truth.
        counts: (I,) bool, whether boxes on an image count (`Protocol.counts`).
        found: the boxes.
        iou_threshold: the IoU that a right box exceeds.

    Returns:
        The ranks of the right boxes.
    """
    kept = np.flatnonzero(counts[found.images])
    images, scores = found.images[kept], found.scores[kept]
    # lexsort is stable and its last key is its first: score, then image, then the given order.
    order = np.lexsort((images, -scores))
    has_gt = np.zeros(len(counts), bool)
    has_gt[query.gt_images] = True
    candidates = np.flatnonzero(has_gt[images[order]])
    rows = kept[order[candidates]]
    gt, iou = _best_gt(query, found.images[rows], found.boxes[rows])
    is_match = iou > iou_threshold
    _, first = np.unique(gt[is_match], return_index=True)
    ranks = np.sort(candidates[is_match][first]) + 1
    return QueryOutcome(query.name, len(query.gt_images), len(kept), ranks.astype(np.int64))


def average_precision(outcome: QueryOutcome) -> float:
    """Sum over the right boxes of the precision at their ranks, over P ("retrieval").

    The whole list counts; a box that is never found adds 0.
    """
    found = np.arange(1, len(outcome.tp_ranks) + 1)
    return float(np.sum(found / outcome.tp_ranks) / outcome.num_gt)


def average_precision_delg(outcome: QueryOutcome) -> float:
    """Trapezoids: the mean of the precision just before and at each right box, over P ("delg").

    Before rank 1 the precision is 1.
    """
    found, ranks = np.arange(1, len(outcome.tp_ranks) + 1), outcome.tp_ranks
    before = np.where(ranks == 1, 1.0, (found - 1) / np.maximum(ranks - 1, 1))
    return float(np.sum((before + found / ranks) / 2) / outcome.num_gt)


def average_precision_voc(outcome: QueryOutcome) -> float:
    """Area under the interpolated precision-recall curve, all points ("voc")."""
    return float(np.sum(_envelope(outcome)) / outcome.num_gt)


AP_FUNCTIONS: Mapping[str, Callable[[QueryOutcome], float]] = MappingProxyType(
    {
        "retrieval": average_precision,
        "delg": average_precision_delg,
        "voc": average_precision_voc,
    }
)
"""The name a metric key carries -> the function; the INS protocols report "retrieval"."""


def ins_metrics(
    outcomes: Sequence[QueryOutcome], key: str, iou_threshold: float = 0.5
) -> dict[str, float]:
    """The means over queries of everything that is measured.

    Args:
        outcomes: at least one query.
        key: the protocol, e.g. "ins_prw/global".
        iou_threshold: that was used, for the names.

    Returns:
        In percent, named `KEY/METRIC@IoUt`: mAP_retrieval, mAP_delg, mAP_voc, rank-k (a right box
        among the first k), precision-k, recall-k for k in `CMC_RANKS`, and the recall of the whole
        list.

    Raises:
        ValueError: there is no query.
    """
    if not outcomes:
        raise ValueError(f"{key}: no query to judge: none has a positive image")
    per_query = {
        f"mAP_{name}": [function(one) for one in outcomes]
        for name, function in AP_FUNCTIONS.items()
    }
    for k in CMC_RANKS:
        per_query[f"rank-{k}"] = [float(one.hits(k) > 0) for one in outcomes]
    for k in CMC_RANKS:
        per_query[f"precision-{k}"] = [one.precision(k) for one in outcomes]
        per_query[f"recall-{k}"] = [one.hits(k) / one.num_gt for one in outcomes]
    per_query["recall"] = [one.recall for one in outcomes]
    return {
        f"{key}/{name}@IoU{iou_threshold:g}": 100.0 * float(np.mean(values))
        for name, values in per_query.items()
    }


def precision_recall_curve(outcomes: Sequence[QueryOutcome]) -> np.ndarray:
    """The mean over queries of the interpolated precision at each of `RECALL_LEVELS`.

    At a recall that a query never reaches its precision is 0. The mean of the curve is close to
    mAP_voc.

    Args:
        outcomes: at least one query.

    Returns:
        (101,) float64, fractions.
    """
    total = np.zeros(len(RECALL_LEVELS))
    steps = np.arange(len(RECALL_LEVELS))
    for one in outcomes:
        # The right boxes that a recall of step / 100 takes, in integers: ceil without rounding.
        needed = np.maximum(-(-steps * one.num_gt // (len(steps) - 1)), 1)
        envelope = np.zeros(one.num_gt)
        envelope[: len(one.tp_ranks)] = _envelope(one)
        total += envelope[needed - 1]
    return total / len(outcomes)


def _envelope(outcome: QueryOutcome) -> np.ndarray:
    """(T,) the best precision at or after each right box."""
    precision = np.arange(1, len(outcome.tp_ranks) + 1) / outcome.tp_ranks
    return np.maximum.accumulate(precision[::-1])[::-1]


def _best_gt(
    query: ProtocolQuery, images: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For boxes on images with ground truth: the box of the truth they overlap most, and the IoU.

    Args:
        query: its `gt_images` rise.
        images: (N,) int, each in `gt_images`.
        boxes: (N, 4).

    Returns:
        (N,) positions in the truth, the first where several are as near, and (N,) IoUs.
    """
    first = np.searchsorted(query.gt_images, images, side="left")
    counts = np.searchsorted(query.gt_images, images, side="right") - first
    best, best_iou = first.copy(), np.full(len(images), -1.0)
    for k in range(int(counts.max(initial=0))):
        rows = np.flatnonzero(counts > k)
        iou = paired_iou(boxes[rows], query.gt_boxes[first[rows] + k])
        is_better = iou > best_iou[rows]
        best[rows[is_better]] = first[rows[is_better]] + k
        best_iou[rows[is_better]] = iou[is_better]
    return best, best_iou
