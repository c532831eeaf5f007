"""Which images a seed is searched in."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.selftrain.seed_search import EmbeddingShortlist, SearchPlan, SeedSearch
from spil_d2.structures import Query, Reference

# Two folders whose files are not in the order of ids.
GALLERY = {
    1: {"file_name": "a/3.jpg"},
    2: {"file_name": "a/1.jpg"},
    3: {"file_name": "b/2.jpg"},
    4: {"file_name": "a/2.jpg"},
    5: {"file_name": "a/4.jpg"},
    6: {"file_name": "b/1.jpg"},
}


def _seed(seed_id: int, image_id: int) -> Query:
    return Query(seed_id, (Reference("x.jpg", 10, 10, (0, 0, 5, 5), image_id),))


SEEDS = [_seed(0, 4), _seed(1, 3)]


def _plan(round_index: int = 1, seeds: list[Query] = SEEDS, **settings) -> dict[int, list[int]]:
    plan = SeedSearch(GALLERY, **settings).plan(seeds, round_index)
    return {seed_id: images.tolist() for seed_id, images in plan.items()}


def test_all_images_but_the_own_one() -> None:
    assert _plan() == {0: [1, 2, 3, 5, 6], 1: [1, 2, 4, 5, 6]}
    assert _plan(keep_own_image=True) == {0: [1, 2, 3, 4, 5, 6], 1: [1, 2, 3, 4, 5, 6]}


def test_the_shards_of_successive_rounds_are_all_images() -> None:
    shards = [
        _plan(r, scope="shard", num_shards=3, keep_own_image=True, seed=7)[0] for r in range(4)
    ]
    assert [len(one) for one in shards] == [2, 2, 2, 2]
    assert sorted(shards[0] + shards[1] + shards[2]) == [1, 2, 3, 4, 5, 6]
    assert shards[3] == shards[0] == sorted(shards[0])


@pytest.mark.parametrize(
    ("reach", "keep", "expected"),
    [
        (0, True, {0: [4], 1: [3]}),
        (1, True, {0: [1, 2, 4], 1: [3, 6]}),
        (2, False, {0: [1, 2, 5], 1: [6]}),
    ],
)
def test_own_image_and_neighbours_in_the_sorted_folder(
    reach: int, keep: bool, expected: dict
) -> None:
    found = _plan(scope="own", folder_neighbors=reach, keep_own_image=keep)
    assert found == expected


def test_the_shortlist_is_as_long_without_the_own_image() -> None:
    asked = []

    def shortlist(seed: Query, length: int) -> np.ndarray:
        asked.append(length)
        return np.array([4, 6, 3, 1, 2])[:length]

    found = _plan(scope="shortlist", shortlist=shortlist, shortlist_length=2)
    assert found == {0: [3, 6], 1: [4, 6]} and asked == [3, 3]
    kept = _plan(scope="shortlist", shortlist=shortlist, shortlist_length=2, keep_own_image=True)
    assert kept == {0: [4, 6], 1: [4, 6]}


def test_a_shortlist_of_embeddings_goes_by_the_best_region_of_an_image() -> None:
    rng = np.random.default_rng(0)
    e = rng.normal(size=(200, 5))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    image_ids = rng.integers(50, size=200) * 3
    shortlist = EmbeddingShortlist({9: e[17]}, e, image_ids)
    best: dict[int, float] = {}
    for image_id, row in zip(image_ids.tolist(), e):
        best[image_id] = max(best.get(image_id, -2.0), float(row @ e[17]))
    expected = sorted(best, key=lambda one: (-best[one], one))[:12]
    assert shortlist(_seed(9, 0), 12).tolist() == expected
    with pytest.raises(ValueError, match="200 embeddings"):
        EmbeddingShortlist({}, e, image_ids[:5])


def test_equal_images_are_in_the_order_of_ids() -> None:
    shortlist = EmbeddingShortlist({0: np.ones(1)}, np.ones((4, 1)), np.array([8, 2, 5, 2]))
    assert shortlist(_seed(0, 0), 2).tolist() == [2, 5]


def test_a_plan_by_image_is_the_same_plan() -> None:
    plan = SearchPlan({5: np.array([1, 3]), 2: np.array([3, 4]), 9: np.array([], np.int64)})
    found = {image_id: seeds.tolist() for image_id, seeds in plan.by_image().items()}
    assert found == {1: [5], 3: [2, 5], 4: [2]}
    assert SearchPlan({}).by_image() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "camera"}, "SCOPE"),
        ({"scope": "shortlist"}, "shortlist"),
        ({"scope": "own"}, "nothing to search"),
        ({"scope": "shard", "num_shards": 0}, "NUM_SHARDS"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeedSearch(GALLERY, **settings)


def test_a_seed_from_elsewhere_has_no_own_image() -> None:
    with pytest.raises(ValueError, match="seed 0"):
        _plan(seeds=[_seed(0, 77)], scope="own", keep_own_image=True)
