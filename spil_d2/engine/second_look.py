"""What a localizer says of boxes that it has found: where else it sees something, and where the
borders are when it looks at a found box again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from detectron2.utils import comm

from ..structures import RankList, RankLists, RegionList, RegionLists, SamplePool
from .localizer import KernelOf, Localizer

Row = tuple[int, list[float], float]
"""Image id, box and probability."""


def refine_boxes(
    localizer: Localizer, localized: RankLists, kernel_of: KernelOf, above: float
) -> RankLists | None:
    """Boxes of a second pass: iterated box regression of those that the localizer is sure of.

    Args:
        localizer: that found the boxes.
        localized: of `Localizer.localize`, on all processes.
        kernel_of: that they were localized with.
        above: boxes with a larger probability are looked at again; the others stay.

    Returns:
        On the main process the lists with other boxes and the same probabilities, elsewhere None.
    """
    sure: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for one in localized.lists:
        for i in np.nonzero(_probabilities(one) > above)[0]:
            sure[int(one.image_ids[i])][one.query_id] = one.boxes[i].tolist()
    gathered = comm.gather(localizer.refine(sure, kernel_of, "second pass"))
    if not comm.is_main_process():
        return None
    moved = {key: box for part in gathered for key, box in part.items()}
    refined = []
    for one in localized.lists:
        boxes = [
            moved.get((one.query_id, image_id), box)
            for image_id, box in zip(one.image_ids.tolist(), one.boxes.tolist())
        ]
        refined.append(replace(one, boxes=np.array(boxes, np.float32).reshape(-1, 4)))
    return RankLists(tuple(refined))


def _probabilities(one: RankList) -> np.ndarray:
    assert one.probabilities is not None, "a localized list carries probabilities"
    return one.probabilities


def find_other_boxes(
    localizer: Localizer, pool: SamplePool, kernel_of: KernelOf, above: float
) -> RegionLists | None:
    """The boxes beside the best one of each image with a pseudo label (D20).

    Args:
        localizer: with TEST.DETECTIONS_PER_IMAGE > 1; else there are none.
        pool: the pseudo labels.
        kernel_of: that they were localized with.
        above: the boxes' probability is larger.

    Returns:
        On the main process the boxes of each query, p for both scores; elsewhere None.
    """
    wanted: dict[int, list[int]] = defaultdict(list)
    for one in pool.queries:
        for i in one.confident:
            wanted[one.candidates[i].image_id].append(one.query_id)
    found: dict[int, list[Row]] = {query_id: [] for query_id in pool}
    for image_id, answers in localizer.detect(wanted, kernel_of, "other boxes"):
        for query_id, one in answers:
            rows = zip(one.pred_boxes.tensor[1:].tolist(), one.scores[1:].tolist())
            found[query_id] += [(image_id, box, p) for box, p in rows if p > above]
    gathered = comm.gather(found)
    if not comm.is_main_process():
        return None
    return RegionLists(
        tuple(_region_list(q, [row for part in gathered for row in part[q]]) for q in pool)
    )


def _region_list(query_id: int, rows: Sequence[Row]) -> RegionList:
    p = np.array([p for _, _, p in rows], np.float32)
    boxes = np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4)
    return RegionList.ranked(query_id, np.array([i for i, _, _ in rows], np.int64), boxes, p, p)
