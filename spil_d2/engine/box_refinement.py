"""Confident boxes of pools and rank lists, refined by their pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from ..ops.box_refinement import METHODS, GrabCutRefinement
from ..structures import Candidate, QueryPool, RankList, RankLists, SamplePool
from ..utils.picture_files import read_pixels


class BoxRefiner:
    """Refines the boxes that the localizer is sure of; the users' boxes stay as they are."""

    def __init__(self, refinement: GrabCutRefinement, gallery: Sequence[dict]):
        """
        Args:
            refinement: (picture, box) -> box.
            gallery: Detectron2 dataset dicts.
        """
        self._refinement = refinement
        self._files = {int(one["image_id"]): one["file_name"] for one in gallery}

    def refine_pool(self, pool: SamplePool) -> SamplePool:
        """The pool with other pseudo boxes, in the target view and in the support view."""
        boxes = iter(
            self.refine_boxes(
                [
                    (candidate.image_id, candidate.target.box)
                    for one in pool.queries
                    for candidate in one.candidates
                    if candidate.target is not None
                ]
            )
        )
        return replace(
            pool,
            queries=tuple(
                QueryPool(
                    one.query_id,
                    one.reference,
                    tuple(_moved(candidate, boxes) for candidate in one.candidates),
                )
                for one in pool.queries
            ),
        )

    def refine_lists(self, lists: RankLists, above: float) -> RankLists:
        """The lists with other boxes where the localizer's probability is larger than `above`."""
        chosen = [np.nonzero(_probabilities(one) > above)[0] for one in lists.lists]
        boxes = iter(
            self.refine_boxes(
                [
                    (int(one.image_ids[i]), one.boxes[i])
                    for one, rows in zip(lists.lists, chosen)
                    for i in rows
                ]
            )
        )
        refined = []
        for one, rows in zip(lists.lists, chosen):
            moved = one.boxes.copy()
            for i in rows:
                moved[i] = next(boxes)
            refined.append(replace(one, boxes=moved))
        return RankLists(tuple(refined))

    def refine_boxes(self, places: Sequence[tuple[int, Sequence[float]]]) -> list[np.ndarray]:
        """Refined boxes (4,) float64 for pairs of an image id and a box, XYXY_ABS in its pixels."""
        # OpenCV works outside of Python's lock.
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            done = threads.map(self._refine_one, places)
            return list(tqdm(done, "refining boxes", total=len(places)))

    def _refine_one(self, place: tuple[int, Sequence[float]]) -> np.ndarray:
        image_id, box = place
        return self._refinement(read_pixels(self._files[image_id], "RGB"), np.asarray(box))


def _moved(candidate: Candidate, boxes: Iterator[np.ndarray]) -> Candidate:
    """A pseudo label at the next box; another candidate as it is."""
    if candidate.target is None:
        return candidate
    x0, y0, x1, y1 = next(boxes).tolist()
    box = (x0, y0, x1, y1)
    return Candidate(candidate.image_id, box, replace(candidate.target, box=box))


def _probabilities(one: RankList) -> np.ndarray:
    assert one.probabilities is not None, "a localized list carries probabilities"
    return one.probabilities


def build_refiner(method: str, gallery: Sequence[dict]) -> BoxRefiner | None:
    """The refiner that a key REFINE_BOXES names; None for "none"."""
    if method not in METHODS:
        raise ValueError(f"REFINE_BOXES {method!r} is none of {METHODS}")
    return None if method == "none" else BoxRefiner(GrabCutRefinement(), gallery)
