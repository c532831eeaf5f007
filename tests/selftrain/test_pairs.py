"""Drawn pairs keep the rules of Algorithm 1."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from spil_d2.selftrain.pairs import PairSampler
from spil_d2.structures import QUERY, Candidate, Query, QueryPool, Reference, SamplePool, Target

BOX = (0.0, 0.0, 10.0, 10.0)
OWN = {1: frozenset({100}), 2: frozenset({200}), 3: frozenset({300})}


def _query_pool(query_id: int, first_image: int, confident: int, count: int = 8) -> QueryPool:
    target = Target(BOX, 0.9)
    return QueryPool(
        query_id,
        Target(BOX, 1.0),
        tuple(
            Candidate(first_image + i, BOX, target if i < confident else None) for i in range(count)
        ),
    )


def _pool(stage: int, confident: int) -> SamplePool:
    # Queries 1 and 2 share images: they look for the same thing.
    parts = [(1, 10, confident), (2, 12, confident), (3, 50, confident)]
    return SamplePool(stage, tuple(_query_pool(*part) for part in parts))


def _draws(sampler: PairSampler, query_id: int, count: int = 400) -> list:
    return [sampler.draw(query_id, np.random.default_rng([0, i])) for i in range(count)]


def test_stage_0_looks_in_the_query_image_with_distinct_engine_crops() -> None:
    for pair in _draws(PairSampler(_pool(0, 0), OWN), 1):
        assert pair.target == QUERY
        assert len(set(pair.support)) == 5 and QUERY not in pair.support


def test_a_label_is_no_y_in_stage_0() -> None:
    assert {pair.target for pair in _draws(PairSampler(_pool(0, 3), OWN), 1)} == {QUERY}


def test_crops_of_the_engine_are_drawn_in_stage_0_and_the_first_ones_later() -> None:
    drawn = {i for pair in _draws(PairSampler(_pool(0, 0), OWN), 1) for i in pair.support}
    assert drawn == set(range(8))
    sampler = PairSampler(_pool(1, 2), OWN, swap_probability=0.0)
    assert {frozenset(pair.support) for pair in _draws(sampler, 1)} == {frozenset(range(5))}


@pytest.mark.parametrize("contrastive", [True, False])
def test_a_pair_is_of_its_query_and_has_crops_of_both(contrastive: bool) -> None:
    for pair in _draws(PairSampler(_pool(1, 3), OWN, contrastive=contrastive), 1, 20):
        assert pair.query_id == 1 and len(pair.support) == 5
        assert len(set(pair.negative_support)) == (5 if contrastive else 0)


@pytest.mark.parametrize("confident", [0, 2, 8])
def test_a_swap_never_puts_one_image_on_both_sides(confident: int) -> None:
    for pair in _draws(PairSampler(_pool(1, confident), OWN), 1):
        assert pair.target not in pair.support
        assert len(set(pair.support)) == 5
        assert pair.target == QUERY or pair.target < confident
        # The freed slot goes to the query's own crop.
        assert (QUERY in pair.support) == (pair.target != QUERY)


def test_y_is_uniform_over_the_query_and_its_confident_crops() -> None:
    targets = Counter(p.target for p in _draws(PairSampler(_pool(1, 5), OWN), 1, 3000))
    assert set(targets) == {QUERY, 0, 1, 2, 3, 4}
    assert all(400 < count < 600 for count in targets.values())


def test_swap_probability_one_is_the_papers_literal_always() -> None:
    draws = _draws(PairSampler(_pool(1, 5), OWN, swap_probability=1.0), 1)
    assert all(pair.target != QUERY for pair in draws)


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_y_is_swapped_as_often_as_is_said(probability: float) -> None:
    draws = _draws(PairSampler(_pool(1, 5), OWN, swap_probability=probability), 1, 1000)
    swapped = sum(pair.target != QUERY for pair in draws) / 1000
    # A deviation of 0.014.
    assert swapped == pytest.approx(probability, abs=0.05 if probability else 0.0)


def test_foreign_queries_share_no_images() -> None:
    sampler = PairSampler(_pool(1, 3), OWN)
    assert {pair.negative_id for pair in _draws(sampler, 1)} == {3}
    assert {pair.negative_id for pair in _draws(sampler, 3)} == {1, 2}


def test_foreign_queries_share_at_most_a_part_of_the_shorter_list() -> None:
    # Queries 1 and 2 share 6 of 9 images, their own ones counted.
    for most, foreign in ((6 / 9, {2, 3}), (np.nextafter(6 / 9, 0), {3})):
        sampler = PairSampler(_pool(1, 3), OWN, max_shared_images=most)
        assert {pair.negative_id for pair in _draws(sampler, 1)} == foreign
    # The only image of query 2 is one of the list of query 1.
    parts = (_query_pool(1, 10, 0), _query_pool(2, 10, 0, count=1))
    nothing = {1: frozenset(), 2: frozenset()}
    for most, negative in ((0.6, None), (1.0, 2)):
        sampler = PairSampler(SamplePool(0, parts), nothing, max_shared_images=most)
        assert {pair.negative_id for pair in _draws(sampler, 1, 20)} == {negative}


def test_contrastive_training_can_be_switched_off() -> None:
    draws = _draws(PairSampler(_pool(1, 3), OWN, contrastive=False), 1)
    assert all(pair.negative_id is None for pair in draws)


@pytest.mark.parametrize("confident", [1, 3, 8])
def test_confident_only_does_not_fill_up_with_the_engines_crops(confident: int) -> None:
    sampler = PairSampler(_pool(1, confident), OWN, v_policy="confident_only")
    for pair in _draws(sampler, 1, 100):
        assert pair.target not in pair.support
        assert len(set(pair.support)) == min(confident, 5)
        assert all(i == QUERY or i < confident for i in pair.support)
        assert all(0 <= i < confident for i in pair.negative_support)


@pytest.mark.parametrize("stage", [0, 1])
def test_without_a_confident_crop_both_policies_draw_the_same(stage: int) -> None:
    one, other = (
        PairSampler(_pool(stage, 0), OWN, v_policy=policy)
        for policy in ("two_views", "confident_only")
    )
    assert _draws(one, 1, 20) == _draws(other, 1, 20)


def test_an_unknown_policy_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="SPIL.V_POLICY is 'both'.*two_views.*confident_only"):
        PairSampler(_pool(1, 3), OWN, v_policy="both")


def test_equal_generators_draw_equal_pairs() -> None:
    sampler = PairSampler(_pool(1, 4), OWN)
    assert _draws(sampler, 2, 20) == _draws(sampler, 2, 20)


def test_an_empty_pool_is_an_error_that_names_the_stage() -> None:
    empty = SamplePool(2, (QueryPool(1, Target(BOX, 1.0), ()),))
    with pytest.raises(ValueError, match="stage 2 is empty"):
        PairSampler(empty, OWN)


def _shot(query_id: int, category: int | None, file_name: str | None = None) -> Query:
    reference = Reference(file_name or f"{query_id}.jpg", 20, 20, BOX)
    return Query(query_id, (reference,), category_id=category)


def _negatives(pool: SamplePool, shots: list[Query], query_id: int) -> dict[int, set[int | None]]:
    """Of each drawn Y the foreign queries, None for none."""
    nothing = {one.id: frozenset() for one in shots}
    found: dict[int, set[int | None]] = {}
    for pair in _draws(PairSampler(pool, nothing, classified=shots), query_id):
        found.setdefault(pair.target, set()).add(pair.negative_id)
    return found


def test_known_classes_decide_who_is_foreign_not_their_lists() -> None:
    # Queries 1 and 2 share images and 3 none, but 1 and 3 are of one class.
    shots = [_shot(1, 5), _shot(2, 6), _shot(3, 5)]
    assert _negatives(_pool(0, 0), shots, 1) == {QUERY: {2}}
    assert _negatives(_pool(0, 0), shots, 2) == {QUERY: {1, 3}}


def test_queries_of_unknown_class_keep_the_rule_of_lists() -> None:
    shots = [_shot(1, 5), _shot(2, None), _shot(3, 5)]
    assert _negatives(_pool(0, 0), shots, 1) == {QUERY: {None}}
    assert _negatives(_pool(0, 0), shots, 2) == {QUERY: {3}}
    assert _negatives(_pool(0, 0), shots, 3) == {QUERY: {2}}


def test_queries_that_are_not_classified_keep_the_rule_of_lists() -> None:
    shots = [_shot(1, 5), _shot(3, 6)]
    sampler = PairSampler(_pool(0, 0), OWN, classified=shots)
    for query_id, foreign in ((1, {3}), (2, {3}), (3, {1, 2})):
        assert {pair.negative_id for pair in _draws(sampler, query_id)} == foreign


def test_an_image_labelled_for_both_classes_is_no_null_ground_truth() -> None:
    # Images 10, 11, 12 are labelled for query 1; 12, 13, 14 for query 2; 50 to 52 for query 3.
    shots = [_shot(1, 5), _shot(2, 6), _shot(3, 7)]
    expected = {QUERY: {2, 3}, 0: {2, 3}, 1: {2, 3}, 2: {3}}
    assert _negatives(_pool(1, 3), shots, 1) == expected
    # Nor with another query of that class.
    shots = [_shot(1, 5), _shot(2, 6), _shot(3, 6)]
    assert _negatives(_pool(1, 3), shots, 1) == {**expected, 2: {None}}


def test_a_picture_with_shots_of_both_classes_is_no_null_ground_truth() -> None:
    shots = [_shot(1, 5, "both.jpg"), _shot(2, 6), _shot(3, 7, "both.jpg")]
    assert _negatives(_pool(1, 3), shots, 1) == {QUERY: {2}, 0: {2, 3}, 1: {2, 3}, 2: {3}}
