"""The shots' vote against loops over all neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.selftrain.verification import most_similar_labels, verify_labels


def _by_loops(similarities, shot_categories, box_categories, k) -> list[bool]:
    kept = []
    for row, category in zip(similarities, box_categories):
        voters = sorted(range(len(row)), key=lambda s: (-row[s], s))[:k]
        votes: dict[int, float] = {}
        for s in voters:
            votes[shot_categories[s]] = votes.get(shot_categories[s], 0.0) + max(row[s], 0.0)
        own = votes.get(category, 0.0)
        kept.append(own > 0 and all(own >= other for other in votes.values()))
    return kept


@pytest.mark.parametrize("k", [1, 3, 5, 100])
@pytest.mark.parametrize("seed", range(4))
def test_votes_are_those_of_the_loops(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Coarse values, so that there are ties; negative ones too.
    similarities = rng.integers(-4, 10, (40, 12)) / 10
    shots = rng.choice([3, 17, 44, 90], 12)
    boxes = rng.choice([3, 17, 44, 90, 91], 40)
    kept = verify_labels(similarities, shots, boxes, k)
    assert kept.tolist() == _by_loops(similarities, shots.tolist(), boxes.tolist(), k)
    assert kept.any() and not kept.all()


def test_two_near_shots_outvote_the_nearest() -> None:
    similarities = np.array([[0.9, 0.6, 0.5, 0.4]])
    shots = np.array([1, 2, 2, 1])
    for k, right in ((1, 1), (3, 2), (4, 1)):
        assert verify_labels(similarities, shots, np.array([right]), k) == [True]
        assert verify_labels(similarities, shots, np.array([3 - right]), k) == [False]


def test_shots_that_are_not_similar_have_no_vote() -> None:
    assert verify_labels(np.array([[-0.1, -0.2]]), np.array([1, 1]), np.array([1]), 2) == [False]


@pytest.mark.parametrize(
    ("similarities", "k"), [(np.zeros((1, 2)), 0), (np.zeros((1, 3)), 1), (np.zeros((2, 2)), 1)]
)
def test_what_does_not_fit_is_an_error(similarities: np.ndarray, k: int) -> None:
    with pytest.raises(ValueError, match="^a vote needs k >= 1, .* 1 boxes and 2 shots$"):
        verify_labels(similarities, np.array([1, 2]), np.array([1]), k)


def test_a_vote_without_shots_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one shot.*0 shots"):
        verify_labels(np.zeros((1, 0)), np.zeros(0, int), np.array([1]), 1)


@pytest.mark.parametrize("part", [0.01, 0.4, 1.0])
def test_the_labels_most_like_the_shots_of_their_class_stay(part: float) -> None:
    rng = np.random.default_rng(0)
    similarities = rng.integers(-4, 10, (40, 12)) / 10
    shots = rng.choice([3, 17, 44], 12)
    boxes = rng.choice([3, 17, 44, 91], 40)
    kept = most_similar_labels(similarities, shots, boxes, part).tolist()
    for category in (3, 17, 44):
        means = {
            i: sum(row[s] for s in range(12) if shots[s] == category) / (shots == category).sum()
            for i, row in enumerate(similarities)
            if boxes[i] == category
        }
        best = sorted(means, key=lambda i: (-round(means[i], 9), i))
        count = -int(-part * len(means) // 1)
        chosen = {i for i in means if kept[i]}
        assert len(chosen) == count
        assert min(means[i] for i in chosen) >= means[best[count - 1]] - 1e-9
    # A class without shots has nothing to agree with.
    assert not any(kept[i] for i in range(40) if boxes[i] == 91)


def test_of_equal_labels_the_first_stay() -> None:
    similarities = np.tile([[0.5], [0.25]], (100, 1))
    kept = most_similar_labels(similarities, np.array([1]), np.ones(200, int), 0.75)
    assert kept.dtype == bool
    assert np.flatnonzero(kept).tolist() == sorted([*range(0, 200, 2), *range(1, 100, 2)])


@pytest.mark.parametrize("part", [0.0, 1.5])
def test_a_part_is_a_part(part: float) -> None:
    with pytest.raises(ValueError, match="KEEP"):
        most_similar_labels(np.ones((1, 1)), np.array([1]), np.array([1]), part)
