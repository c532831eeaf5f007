"""Longer lists against loops, and pools that follow them."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.selftrain.list_expansion import (
    choose_instances,
    extend_pool,
    instance_queries,
    join_localized,
    unite_lists,
    without_images,
)
from spil_d2.structures import (
    Candidate,
    Query,
    QueryPool,
    RankList,
    RankLists,
    Reference,
    RegionList,
    RegionLists,
    SamplePool,
    Target,
)

OWN = Target((0.0, 0.0, 4.0, 4.0), 1.0)


def _list(query_id: int, image_ids, rng: np.random.Generator, localized=False) -> RankList:
    count = len(image_ids)
    return RankList(
        query_id,
        np.array(image_ids, np.int64),
        rng.random((count, 4)).astype(np.float32),
        -np.sort(-rng.random(count)).astype(np.float32),
        rng.random(count).astype(np.float32) if localized else None,
    )


def _united_by_loops(lists: list[RankList], excluded: set[int], top_k: int) -> list[tuple]:
    best: dict[int, tuple[int, int]] = {}
    for number, one in enumerate(lists):
        for rank, image_id in enumerate(one.image_ids.tolist()):
            if image_id not in excluded and rank < best.get(image_id, (10**6, 0))[0]:
                best[image_id] = (rank, number)
    rows = []
    for image_id, (rank, number) in sorted(best.items(), key=lambda item: item[1])[:top_k]:
        one = lists[number]
        rows.append((image_id, one.boxes[rank].tolist(), float(one.similarities[rank])))
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top_k", [6, 100])
def test_united_lists_are_those_of_the_loops(seed: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    lists = [_list(9 + n, rng.permutation(20)[:8], rng) for n in range(4)]
    united = unite_lists(lists, {3, 7}, top_k)
    expected = _united_by_loops(lists, {3, 7}, top_k)
    assert united.query_id == 9
    assert united.image_ids.tolist() == [row[0] for row in expected]
    assert united.boxes.tolist() == [row[1] for row in expected]
    lowest = 2.0
    for similarity, (_, _, own) in zip(united.similarities.tolist(), expected):
        lowest = min(lowest, own)
        assert similarity == lowest


def test_a_list_alone_stays_as_it_is() -> None:
    one = _list(1, [5, 2, 8], np.random.default_rng(0))
    united = unite_lists([one], frozenset(), 10)
    for name in ("image_ids", "boxes", "similarities"):
        np.testing.assert_array_equal(getattr(united, name), getattr(one, name))


def _candidate(image_id: int, p: float | None, box=(1.0, 1.0, 9.0, 9.0)) -> Candidate:
    return Candidate(image_id, box, None if p is None else Target(box, p))


def test_the_likeliest_labels_are_the_instances() -> None:
    flat = (2.0, 2.0, 9.0, 2.5)
    candidates = (
        _candidate(4, 0.5),
        _candidate(7, None),
        _candidate(9, 0.75),
        _candidate(2, 0.75),
        _candidate(3, 1.0, flat),
        _candidate(6, 1.0, (2.0, 2.0, 2.5, 9.0)),
        _candidate(8, 0.875, (3.0, 3.0, 4.0, 9.0)),
        _candidate(5, 0.25),
    )
    pool = SamplePool(1, (QueryPool(1, OWN, candidates), QueryPool(2, OWN, (_candidate(4, None),))))
    instances = choose_instances(pool, 4)
    assert instances[1].image_ids.tolist() == [8, 2, 9, 4]
    assert instances[1].localizer_scores.tolist() == [0.875, 0.75, 0.75, 0.5]
    assert len(instances[2]) == 0


def test_instances_are_queries_of_their_query_s_class() -> None:
    shots = [
        Query(q, (Reference(f"{q}.jpg", 9, 9, (0.0, 0.0, 4.0, 4.0)),), 30 + q, category_id=30 + q)
        for q in (4, 1)
    ]
    gallery = [{"image_id": 7, "file_name": "seven.jpg", "width": 20, "height": 10}]
    box = np.array([[1, 2, 20, 10]], np.float32)
    one = np.array([0.9], np.float32)
    instances = RegionLists(tuple(RegionList(q, np.array([7]), box, one, one) for q in (1, 4)))
    members = instance_queries(instances, shots, gallery)
    assert {q: [m.id for m in group] for q, group in members.items()} == {4: [5], 1: [6]}
    (found,) = members[1]
    assert (found.instance_id, found.category_id, found.own_image_ids) == (31, 31, {7})
    assert found.primary == Reference("seven.jpg", 20, 10, (1.0, 2.0, 20.0, 10.0), 7)


def test_a_pool_follows_longer_lists() -> None:
    rng = np.random.default_rng(0)
    lists = RankLists((_list(1, [8, 4, 6, 5], rng),))
    pool = SamplePool(2, (QueryPool(1, OWN, (_candidate(4, 0.5), _candidate(5, None))),))
    (one,) = extend_pool(pool, lists).queries
    assert [c.image_id for c in one.candidates] == [8, 4, 6, 5]
    assert one.candidates[1] == _candidate(4, 0.5)
    for row in (0, 2, 3):
        assert one.candidates[row] == Candidate(
            int(lists[1].image_ids[row]), tuple(lists[1].boxes[row].tolist())
        )


def test_lists_are_localized_in_parts() -> None:
    rng = np.random.default_rng(0)
    whole = RankLists((_list(1, [8, 4, 6, 5], rng), _list(2, [6, 4], rng)))
    known = RankLists((_list(1, [5, 4, 9], rng, True), _list(2, [4, 6], rng, True)))
    rest = without_images(whole, known)
    assert [one.image_ids.tolist() for one in rest.lists] == [[8, 6], []]
    new = RankLists((_list(1, [8, 6], rng, True), _list(2, [], rng, True)))
    joined = join_localized(whole, (known, new))
    assert joined[1].image_ids.tolist() == [8, 4, 6, 5]
    np.testing.assert_array_equal(joined[1].similarities, whole[1].similarities)
    places = ((new, 0), (known, 1), (new, 1), (known, 0))
    for row, (part, place) in enumerate(places):
        np.testing.assert_array_equal(joined[1].boxes[row], part[1].boxes[place])
        assert joined[1].probabilities[row] == part[1].probabilities[place]
    assert joined[2].probabilities.tolist() == known[2].probabilities.tolist()[::-1]
    assert joined[2].boxes.dtype == joined[2].probabilities.dtype == np.float32


def test_an_empty_list_is_localized_to_an_empty_one() -> None:
    none = RankLists((_list(1, [], np.random.default_rng(0), True),))
    (joined,) = join_localized(none, (none,)).lists
    assert joined.boxes.shape == (0, 4)
    assert joined.boxes.dtype == joined.probabilities.dtype == np.float32


def test_lists_that_were_not_localized_cannot_be_joined() -> None:
    lists = RankLists((_list(1, [8], np.random.default_rng(0)),))
    with pytest.raises(AssertionError, match="^a localized list carries probabilities"):
        join_localized(lists, (lists,))
