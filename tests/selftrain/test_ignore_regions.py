"""Which boxes beside a pseudo label become ignore regions."""

from __future__ import annotations

import numpy as np

from spil_d2.selftrain.ignore_regions import add_ignore_regions
from spil_d2.structures import (
    Candidate,
    QueryPool,
    RegionList,
    RegionLists,
    SamplePool,
    Target,
)

BOX = (0.0, 0.0, 10.0, 10.0)
LOOK_ALIKE = ((50.0, 50.0, 60.0, 60.0), 0.5)
# IoU with BOX: 0, 1/3, 0.6.
BOXES = np.array([[20, 0, 30, 10], [5, 0, 15, 10], [2.5, 0, 12.5, 10]], np.float32)


def _others(query_id: int, image_id: int) -> RegionList:
    p = np.array([0.9, 0.8, 0.7], np.float32)
    return RegionList(query_id, np.full(3, image_id), BOXES, p, p)


def test_other_boxes_of_a_labelled_image_are_ignored() -> None:
    old = Target(BOX, 0.9, None, (LOOK_ALIKE, ((1.0, 1.0, 2.0, 2.0), 0.0)))
    candidates = (Candidate(1, BOX, old), Candidate(2, BOX), Candidate(3, BOX, Target(BOX, 0.8)))
    pool = SamplePool(
        1, (QueryPool(7, Target(BOX, 1.0), candidates), QueryPool(8, Target(BOX, 1.0), ()))
    )
    others = RegionLists((_others(7, 1), _others(8, 1)))
    added = add_ignore_regions(pool, others, 0.5)
    ignored = tuple((tuple(map(float, box)), 0.0) for box in BOXES[:2])
    first, second, third = added[7].candidates
    # Look-alikes stay; the ignore regions of an earlier stage go.
    assert first.target == Target(BOX, 0.9, None, (LOOK_ALIKE, *ignored))
    assert (second, third) == candidates[1:]
    assert added[8] == pool[8]
    strict = add_ignore_regions(pool, others, 0.2)[7].candidates[0].target
    assert strict.extras == (LOOK_ALIKE, ignored[0])


def test_a_box_as_near_as_allowed_is_ignored_and_the_label_s_own_is_not() -> None:
    pool = SamplePool(1, (QueryPool(7, Target(BOX, 1.0), (Candidate(1, BOX, Target(BOX, 0.9)),)),))
    (one,) = add_ignore_regions(pool, RegionLists((_others(7, 1),)), 50 / 150)[7].candidates
    assert [box for box, _ in one.target.extras] == [tuple(map(float, box)) for box in BOXES[:2]]
    # A label that single precision rounds is the same object as the rounded box.
    label = (0.1, 0.1, 10.3, 10.7)
    pool = SamplePool(
        1, (QueryPool(7, Target(BOX, 1.0), (Candidate(1, BOX, Target(label, 0.9)),)),)
    )
    p = np.ones(1, np.float32)
    same = RegionList(7, np.array([1]), np.array([label], np.float32), p, p)
    (one,) = add_ignore_regions(pool, RegionLists((same,)), 1 - 1e-12)[7].candidates
    assert one.target.extras == ()
