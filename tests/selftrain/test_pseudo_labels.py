"""Eq. 4 on a hand-made pool."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.selftrain.pseudo_labels import drop_labels, initial_pool, select_pseudo_labels
from spil_d2.structures import Query, RankList, RankLists, Reference

QUERY = Query(7, (Reference("q.jpg", 100, 80, (10, 10, 50, 60)),), instance_id=1)


def _lists(probabilities: list[float] | None = None, shift: float = 0.0) -> RankLists:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 20, 20], [1, 1, 9, 9]], np.float32) + shift
    return RankLists(
        (
            RankList(
                7,
                np.array([30, 10, 20]),
                boxes,
                np.array([0.9, 0.8, 0.7], np.float32),
                None if probabilities is None else np.array(probabilities, np.float32),
            ),
        )
    )


def test_stage_0_targets_are_the_users_boxes_alone() -> None:
    pool = initial_pool([QUERY], _lists(), top_k=2)
    assert pool.stage == 0 and pool.num_targets == 0
    assert [c.image_id for c in pool[7].candidates] == [30, 10]
    assert [c.box for c in pool[7].candidates] == [(0, 0, 10, 10), (5, 5, 20, 20)]
    assert pool[7].reference.box == (10, 10, 50, 60) and pool[7].reference.weight == 1.0


def test_boxes_above_the_threshold_become_targets_and_others_keep_the_engines_box() -> None:
    pool = initial_pool([QUERY], _lists(), top_k=3)
    following = select_pseudo_labels(pool, _lists(), _lists([0.995, 0.5, 0.75], shift=2), 0.75)
    one = following[7]
    assert following.stage == 1 and one.reference == pool[7].reference
    # p must exceed tau: .75 does not.
    assert one.confident == (0,)
    assert one.candidates[0].target.weight == pytest.approx(0.995)
    assert one.candidates[0].box == (2, 2, 12, 12)
    assert one.candidates[1].box == (5, 5, 20, 20) and one.candidates[2].box == (1, 1, 9, 9)
    assert one.by_confidence == (0, 1, 2)


def test_labels_are_decided_anew_at_each_stage() -> None:
    pool = initial_pool([QUERY], _lists(), top_k=3)
    first = select_pseudo_labels(pool, _lists(), _lists([1.0, 1.0, 1.0]), 0.99)
    second = select_pseudo_labels(first, _lists(), _lists([0.1, 0.95, 0.2]), 0.89)
    assert first[7].confident == (0, 1, 2) and second[7].confident == (1,)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_a_threshold_outside_0_1_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=rf"^a threshold tau is in \(0, 1\), got {tau}"):
        select_pseudo_labels(initial_pool([QUERY], _lists(), 3), _lists(), _lists([1, 1, 1]), tau)


def test_lists_that_were_not_localized_label_nothing() -> None:
    with pytest.raises(AssertionError, match="^a localized list carries probabilities"):
        select_pseudo_labels(initial_pool([QUERY], _lists(), 3), _lists(), _lists(), 0.5)


def test_dropped_labels_are_the_engines_boxes_again() -> None:
    pool = initial_pool([QUERY], _lists(), top_k=3)
    labelled = select_pseudo_labels(pool, _lists(), _lists([0.9, 0.9, 0.5], shift=2), 0.75)
    kept = drop_labels(labelled, _lists(), {(7, 30), (8, 10)})
    assert kept == select_pseudo_labels(pool, _lists(), _lists([0.1, 0.9, 0.5], shift=2), 0.75)
