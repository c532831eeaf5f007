"""The ranker alone: what must not change its numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from spil_d2.evaluation.ranker_metrics import Crops, ranker_metrics


@dataclass(frozen=True)
class Case:
    """Embeddings of positive numbers: a distractor's may be turned away from all of them."""

    queries: Crops
    gallery: Crops
    query_vectors: np.ndarray
    vectors: np.ndarray

    def numbers(self) -> dict[str, float]:
        return ranker_metrics(self.query_vectors, self.vectors, self.queries, self.gallery)


def crops(rng: np.random.Generator, count: int) -> Crops:
    return Crops(
        rng.integers(0, 15, count),
        np.zeros((count, 4)),
        rng.integers(0, 6, count),
        rng.integers(0, 3, count),
    )


def taken(some: Crops, rows: np.ndarray) -> Crops:
    assert some.cameras is not None
    return Crops(some.image_ids[rows], some.boxes[rows], some.identities[rows], some.cameras[rows])


@pytest.fixture(params=range(5))
def case(request: pytest.FixtureRequest) -> Case:
    rng = np.random.default_rng(request.param)
    vectors = rng.uniform(0.1, 1, (60, 5)), rng.uniform(0.1, 1, (25, 5))
    return Case(crops(rng, 25), crops(rng, 60), vectors[1], vectors[0])


def test_the_order_of_both_sides_does_not_matter(case: Case) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.permutation(25), rng.permutation(60)
    other = Case(
        taken(case.queries, a), taken(case.gallery, b), case.query_vectors[a], case.vectors[b]
    )
    assert other.numbers() == pytest.approx(case.numbers(), abs=1e-9)


def test_lengths_and_a_common_rotation_do_not_matter(case: Case) -> None:
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    scaled = replace(
        case,
        query_vectors=case.query_vectors * rng.uniform(0.1, 9, (25, 1)),
        vectors=case.vectors * rng.uniform(0.1, 9, (60, 1)) @ rotation,
    )
    scaled = replace(scaled, query_vectors=scaled.query_vectors @ rotation)
    assert scaled.numbers() == pytest.approx(case.numbers(), abs=1e-9)


def test_every_query_twice_changes_nothing(case: Case) -> None:
    twice = np.tile(np.arange(25), 2)
    doubled = replace(
        case, queries=taken(case.queries, twice), query_vectors=case.query_vectors[twice]
    )
    assert doubled.numbers() == pytest.approx(case.numbers(), abs=1e-9)


@pytest.mark.parametrize("below", [True, False])
def test_distractors_below_change_nothing_and_above_cost_all_first_ranks(
    case: Case, below: bool
) -> None:
    count = 12
    # Away from all queries, or one beside each of them.
    more = -np.ones((count, 5)) if below else case.query_vectors[:count]
    nobody = Crops(np.full(count, 99), np.zeros((count, 4)), np.full(count, 77), np.full(count, 9))
    columns = (
        np.concatenate(pair)
        for pair in zip(
            (case.gallery.image_ids, case.gallery.boxes, case.gallery.identities),
            (nobody.image_ids, nobody.boxes, nobody.identities),
        )
    )
    assert case.gallery.cameras is not None and nobody.cameras is not None
    cameras = np.concatenate([case.gallery.cameras, nobody.cameras])
    longer = replace(
        case,
        gallery=Crops(*columns, cameras),
        vectors=np.concatenate([case.vectors, more]),
    )
    if below:
        assert longer.numbers() == case.numbers()
        return
    some = np.arange(count)
    longer = replace(
        longer, queries=taken(case.queries, some), query_vectors=case.query_vectors[:count]
    )
    found = longer.numbers()
    assert found["ranker/all_cameras/rank-1"] == found["ranker/separate_cameras/rank-1"] == 0
