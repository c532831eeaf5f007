"""Other objects of the class in a labelled image: neither labels nor background (D20)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ops.numpy_boxes import paired_iou
from ..structures import Candidate, QueryPool, RegionList, RegionLists, SamplePool, Target
from .pseudo_labels import as_box

IGNORED = 0.0
"""Weight of an extra of a `Target` that is an ignore region."""


def add_ignore_regions(pool: SamplePool, others: RegionLists, max_iou: float) -> SamplePool:
    """The pool whose pseudo labels carry the other boxes of their images as ignore regions.

    Look-alikes with a weight stay; ignore regions of an earlier stage do not.

    Args:
        pool: V of a stage.
        others: of each of its queries the boxes beside the best one.
        max_iou: a box with a larger IoU with the pseudo label is the same object and left out.
    """
    return replace(
        pool, queries=tuple(_add(one, others[one.query_id], max_iou) for one in pool.queries)
    )


def _add(one: QueryPool, others: RegionList, max_iou: float) -> QueryPool:
    candidates = []
    for candidate in one.candidates:
        if candidate.target is not None:
            boxes = others.boxes[others.image_ids == candidate.image_id]
            candidate = _with_ignored(candidate, candidate.target, boxes, max_iou)
        candidates.append(candidate)
    return replace(one, candidates=tuple(candidates))


def _with_ignored(
    candidate: Candidate, target: Target, boxes: np.ndarray, max_iou: float
) -> Candidate:
    labels = np.repeat(np.array([target.box], np.float32), len(boxes), axis=0)
    elsewhere = boxes[paired_iou(boxes, labels) <= max_iou]
    look_alikes = tuple(one for one in target.extras if one[1] != IGNORED)
    ignored = tuple((as_box(box), IGNORED) for box in elsewhere.tolist())
    return replace(candidate, target=replace(target, extras=look_alikes + ignored))
