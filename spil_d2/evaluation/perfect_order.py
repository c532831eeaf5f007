"""What a detector's boxes would reach, were they in the right order."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


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
    return [
        {**one, "score": _best_iou(one["bbox"], boxes[one["image_id"], one["category_id"]])}
        for one in detections
    ]


def coco_ap(
    truth: COCO, detections: Sequence[dict], category_ids: Sequence[int]
) -> dict[str, float]:
    """COCO's AP, AP50 and AP75 of some classes on all images, in percent."""
    if not detections:
        return dict.fromkeys(("AP", "AP50", "AP75"), 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(truth, truth.loadRes(list(detections)), "bbox")
        judge.params.catIds = list(category_ids)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = ("AP", "AP50", "AP75")
    return {name: 100 * float(value) for name, value in zip(names, judge.stats[:3], strict=True)}


def _best_iou(box: Sequence[float], truth: Sequence[Sequence[float]]) -> float:
    if not truth:
        return 0.0
    return float(mask.iou(np.array([box]), np.array(truth), [0] * len(truth)).max())
