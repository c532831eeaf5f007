"""What a detector's boxes would reach, were they in the right order."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .few_shot import group_metrics
from .localization import best_ious

_METRICS = ("AP", "AP50", "AP75")


def order_by_truth(truth: COCO, detections: Sequence[dict]) -> list[dict]:
    """The same boxes, their scores being the IoU with the nearest true box of their class.

    What their AP lacks to 100 is due to boxes: missing, imprecise or double ones. What the AP of
    the given scores lacks to it is due to the order: what is sure and wrong, in class or place.

    Args:
        truth: COCO annotations.
        detections: COCO results with `image_id`, `category_id`, `bbox` (XYWH_ABS) and `score`.

    Returns:
        Copies with other scores, 0 where the image shows none of the class.
    """
    boxes = defaultdict(list)
    for one in truth.dataset["annotations"]:
        if not one.get("iscrowd"):
            boxes[one["image_id"], one["category_id"]].append(one["bbox"])
    shown = [_corners(boxes[one["image_id"], one["category_id"]]) for one in detections]
    ious = best_ious(_corners([one["bbox"] for one in detections]), shown)
    return [{**one, "score": float(iou)} for one, iou in zip(detections, ious, strict=True)]


def coco_ap(
    truth: COCO, detections: Sequence[dict], category_ids: Sequence[int]
) -> dict[str, float]:
    """COCO's AP, AP50 and AP75 of some classes on all images, in percent."""
    if not detections:
        return dict.fromkeys(_METRICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes(list(detections)), "bbox")
        judge.params.catIds = list(category_ids)
        judge.evaluate()
        judge.accumulate()
    metrics = group_metrics(judge, category_ids, "")
    return {name: metrics[name] for name in _METRICS}


def _corners(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """(R, 4) XYXY_ABS of R XYWH_ABS boxes."""
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners
