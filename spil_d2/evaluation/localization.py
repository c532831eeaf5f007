"""How well the returned boxes fit: mIoU, CorLoc and the Recall-IoU curve.

Pure numpy. Boxes are XYXY_ABS in pixels of the stored gallery image; IoU is intersection over
*union* in [0, 1]. (Some published scripts divide by the rectangle that encloses both boxes, which
gives 1/9 instead of 1/7 for two 2x2 boxes that are shifted by one pixel in x and y.)

Shape shorthand: M boxes, G ground-truth boxes, R ranked images, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

IOU_THRESHOLDS = np.arange(21) / 20
"""0, .05, ..., 1: where the Recall-IoU curve is sampled."""


@dataclass(frozen=True)
class JudgedList:
    """A rank list beside the truth, the query's own images taken out.

    Attributes:
        query_id: the query.
        image_ids: (R,) int64, best first.
        hits: (R,) bool, whether the image shows the query's instance.
        ious: (R,) float64, IoU of the returned box with the best box of the instance in that
            image; 0 where the image is no hit.
        num_relevant: |G|, the gallery images that show the instance, at least 1.
        probabilities: (R,) the localizer's p, or None where no localizer has run.
    """

    query_id: int
    image_ids: np.ndarray
    hits: np.ndarray
    ious: np.ndarray
    num_relevant: int
    probabilities: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.num_relevant < 1:
            raise ValueError(f"query {self.query_id} has no relevant image and cannot be judged")
        if not len(self.image_ids) == len(self.hits) == len(self.ious):
            raise ValueError(
                f"query {self.query_id}: {len(self.image_ids)} images, {len(self.hits)} hits and "
                f"{len(self.ious)} IoUs do not belong together"
            )

    def hit_ious(self, k: int) -> np.ndarray:
        """(H,) IoUs of the hits (true positives) in the first k ranks."""
        return self.ious[:k][self.hits[:k]]


@dataclass(frozen=True)
class RecallIoUCurve:
    """Recall against the IoU that is asked for.

    Attributes:
        thresholds: (T,) IoU thresholds, rising.
        recall: (T,) hits in the top k with IoU >= t, over sum_q min(k, |G_q|).
        recall_of_hits: (T,) the same count over all hits in the top k: localization alone.
    """

    thresholds: np.ndarray
    recall: np.ndarray
    recall_of_hits: np.ndarray

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists for JSON."""
        return {
            "iou_thresholds": [float(t) for t in self.thresholds],
            "recall": [float(r) for r in self.recall],
            "recall_of_hits": [float(r) for r in self.recall_of_hits],
        }


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair.

    Args:
        boxes: (M, 4) XYXY_ABS.
        others: (G, 4) XYXY_ABS, in the same frame.

    Returns:
        (M, G) float64 in [0, 1]; a box without area has IoU 0 with everything.
    """
    a = np.asarray(boxes, np.float64).reshape(-1, 1, 4)
    b = np.asarray(others, np.float64).reshape(-1, 4)
    intersection = _area(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]))
    union = _area(a[..., 2:] - a[..., :2]) + _area(b[..., 2:] - b[..., :2]) - intersection
    return intersection / np.maximum(union, np.finfo(np.float64).tiny)


def best_ious(boxes: np.ndarray, gt_boxes: Sequence[np.ndarray]) -> np.ndarray:
    """IoU of each box with the best ground-truth box of its own image.

    Args:
        boxes: (M, 4) XYXY_ABS, one an image.
        gt_boxes: M arrays (G_m, 4), the instance's boxes in that image; G_m may be 0.

    Returns:
        (M,) float64 in [0, 1]; 0 where the image has no ground-truth box.
    """
    if len(boxes) != len(gt_boxes):
        raise ValueError(f"{len(boxes)} boxes, but ground truth of {len(gt_boxes)} images")
    return np.array(
        [box_iou(box, gt).max(initial=0.0) for box, gt in zip(boxes, gt_boxes, strict=True)],
        np.float64,
    )


def localization_metrics(judged: Sequence[JudgedList], k: int = 128) -> dict[str, float]:
    """Localization numbers of a set of queries.

    A query without any hit in its top k counts as 0 in the means over queries; it is never left
    out. All means over queries give each query the same weight.

    Args:
        judged: one entry a query, Q of them.
        k: the cut of each list.

    Returns:
        In percent:
        `mIoU_TP@k`: mean IoU over the hits in the top k of a query, averaged over queries.
        `mIoU_TP_micro@k`: mean IoU over all hits of all queries: long lists weigh more.
        `mIoU_all@k`: mean IoU over *all* returned images in the top k of a query, a wrong image
        counting 0, averaged over queries. Bounded by the precision in the top k.
        `CorLoc50@k`: fraction of a query's hits in the top k whose box has IoU >= 0.5, averaged
        over queries. (CorLoc of the co-localization papers, with a query's hits as its image set.)
        `Recall@IoU.50`, `Recall@IoU.70`: points of `recall_iou_curve`.
        `AUC_p@k`, where every list carries the localizer's p and there are hits and others: how
        often a hit has a higher p than an image without the instance, over all pairs of them. 50
        is a localizer that cannot tell, whatever its boxes are.

    Raises:
        ValueError: where there is no query, or k < 1.
    """
    _check(judged, k)
    per_query = [one.hit_ious(k) for one in judged]
    pooled = np.concatenate(per_query)
    curve = recall_iou_curve(judged, k, np.array([0.5, 0.7]))
    fractions = {
        f"mIoU_TP@{k}": np.mean([_mean(ious) for ious in per_query]),
        f"mIoU_TP_micro@{k}": _mean(pooled),
        f"mIoU_all@{k}": np.mean([_mean(one.ious[:k]) for one in judged]),
        f"CorLoc50@{k}": np.mean([_mean(ious >= 0.5) for ious in per_query]),
        "Recall@IoU.50": curve.recall[0],
        "Recall@IoU.70": curve.recall[1],
        **_presence_auc(judged, k),
    }
    return {name: 100.0 * float(value) for name, value in fractions.items()}


def recall_iou_curve(
    judged: Sequence[JudgedList], k: int = 128, thresholds: np.ndarray = IOU_THRESHOLDS
) -> RecallIoUCurve:
    """Recall(t) = hits in the top k with IoU >= t, over sum_q min(k, |G_q|).

    At t = 0 this is the recall of the search itself, whatever the boxes.

    Args:
        judged: one entry a query.
        k: the cut of each list.
        thresholds: (T,) IoU thresholds.

    Raises:
        ValueError: where there is no query, or k < 1.
    """
    _check(judged, k)
    ious = np.concatenate([one.hit_ious(k) for one in judged])
    counts = np.count_nonzero(ious[None, :] >= thresholds[:, None], axis=1)
    reachable = sum(min(k, one.num_relevant) for one in judged)
    return RecallIoUCurve(thresholds, counts / reachable, counts / max(len(ious), 1))


def _area(sizes: np.ndarray) -> np.ndarray:
    return np.prod(np.clip(sizes, 0.0, None), axis=-1)


def _presence_auc(judged: Sequence[JudgedList], k: int) -> dict[str, float]:
    hits = np.concatenate([one.hits[:k] for one in judged])
    given = [one.probabilities[:k] for one in judged if one.probabilities is not None]
    if len(given) != len(judged) or hits.all() or not hits.any():
        return {}
    return {f"AUC_p@{k}": float(roc_auc_score(hits, np.concatenate(given)))}


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _check(judged: Sequence[JudgedList], k: int) -> None:
    if k < 1:
        raise ValueError(f"rank lists are cut at k >= 1, got k={k}")
    if not judged:
        raise ValueError(
            "no query to evaluate: every query lacks a relevant gallery image besides its own"
        )
