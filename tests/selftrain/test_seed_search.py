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


def test_one_shard_is_all_images_and_the_split_follows_the_seed() -> None:
    assert _plan(scope="shard", keep_own_image=True)[0] == [1, 2, 3, 4, 5, 6]
    shards = {"scope": "shard", "num_shards": 2, "keep_own_image": True}
    first = [_plan(seed=seed, **shards)[0] for seed in range(8)]
    assert _plan(**shards)[0] == first[0] and len(set(map(tuple, first))) > 2
    # Of a permutation drawn from the seed, every second one.
    mixed = np.random.default_rng(0).permutation([1, 2, 3, 4, 5, 6])
    assert first[0] == sorted(mixed[1::2].tolist())


def test_seeds_share_the_array_of_images_that_holds_none_of_their_own() -> None:
    plan = SeedSearch(GALLERY).plan([_seed(0, 70), _seed(1, 80), _seed(2, 1)], 0)
    assert plan[0] is plan[1] and plan[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert plan[2].tolist() == [2, 3, 4, 5, 6]


def test_nothing_to_search_is_an_empty_array_of_ids() -> None:
    (images,) = SeedSearch({}).plan([_seed(0, 4)], 0).values()
    assert images.dtype == np.int64 and len(images) == 0


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

    def shortlist(seed: Query, length: int) -> list[int]:
        asked.append((seed.id, length))
        return [4, 6, 3, 1, 2][:length]

    settings = {"scope": "shortlist", "shortlist": shortlist}
    seeds = [*SEEDS, _seed(2, 5)]
    found = _plan(seeds=seeds, shortlist_length=2, **settings)
    assert found == {0: [3, 6], 1: [4, 6], 2: [4, 6]}
    kept = _plan(shortlist_length=2, keep_own_image=True, **settings)
    assert kept == {0: [4, 6], 1: [4, 6]}
    assert _plan(shortlist_length=1, **settings) == {0: [6], 1: [4]}
    _plan(seeds=seeds[:1], **settings)
    lengths = [(0, 3), (1, 3), (2, 3), (0, 2), (1, 2), (0, 2), (1, 2), (0, 101)]
    assert asked == lengths


def test_a_shortlist_of_nothing_is_an_empty_array_of_ids() -> None:
    search = SeedSearch(GALLERY, scope="shortlist", shortlist=lambda seed, length: [])
    (images,) = search.plan(SEEDS[:1], 0).values()
    assert images.dtype == np.int64 and len(images) == 0


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
    # So many that a sort which is not stable would mix them.
    similar = np.arange(300)[:, None] % 2 * np.ones(1)
    shortlist = EmbeddingShortlist({0: np.ones(1)}, similar, np.arange(300))
    assert shortlist(_seed(0, 0), 300).tolist() == [*range(1, 300, 2), *range(0, 300, 2)]


def test_a_plan_by_image_is_the_same_plan() -> None:
    plan = SearchPlan({5: np.array([1, 3]), 2: np.array([3, 4]), 9: np.array([], np.int64)})
    found = {image_id: seeds.tolist() for image_id, seeds in plan.by_image().items()}
    assert found == {1: [5], 3: [2, 5], 4: [2]}
    assert {seeds.dtype for seeds in plan.by_image().values()} == {np.dtype(np.int64)}
    assert SearchPlan({9: np.array([], np.int64)}).by_image() == {}
    assert SearchPlan({}).by_image() == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scope": "camera"}, "^CST.RANK_LISTS.SCOPE is 'camera': use one of"),
        (
            {"scope": "shortlist"},
            "^the scope 'shortlist' needs a shortlist and a length of at least",
        ),
        (
            {"scope": "shortlist", "shortlist": print, "shortlist_length": 0},
            "^the scope 'shortlist' needs",
        ),
        (
            {"scope": "own"},
            "^CST.RANK_LISTS.SCOPE 'own' without KEEP_OWN_IMAGE and with FOLDER_NEIGHBORS 0 leaves "
            "nothing to search: set one of them$",
        ),
        (
            {"scope": "shard", "num_shards": 0},
            "^CST.RANK_LISTS needs NUM_SHARDS >= 1 and FOLDER_NEIGHBORS >= 0, got 0 and 0$",
        ),
        ({"folder_neighbors": -1}, "^CST.RANK_LISTS needs .* got 1 and -1$"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeedSearch(GALLERY, **settings)


def test_a_seed_from_elsewhere_has_no_own_image() -> None:
    with pytest.raises(ValueError, match="seed 0"):
        _plan(seeds=[_seed(0, 77)], scope="own", keep_own_image=True)
