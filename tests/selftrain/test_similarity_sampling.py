"""Similarity-guided sampling: the worked numbers, frequencies, and the way to a training item."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from spil_d2.data.build import PairDataset
from spil_d2.data.crops import CropGeometry
from spil_d2.data.pair_mapper import PairMapper
from spil_d2.ops.numpy_boxes import BoxFilter
from spil_d2.selftrain.similarity_sampling import (
    SeedPairSampler,
    agreeing_seeds,
    pool_of_regions,
    sgs_probabilities,
)
from spil_d2.structures import QUERY, Pair, Query, Reference, RegionList, RegionLists


def _seed(seed_id: int, image_id: int, file_name: str = "x.png") -> Query:
    return Query(seed_id, (Reference(file_name, 64, 48, (4.0, 4.0, 24.0, 20.0), image_id),))


def _list(query_id: int, image_ids: list[int], similarities: list[float]) -> RegionList:
    x = np.arange(len(image_ids), dtype=np.float32)
    boxes = np.stack([x, x, x + 20, x + 10], axis=1)
    return RegionList(query_id, np.array(image_ids), boxes, np.array(similarities, np.float32))


SEEDS = [_seed(0, 100), _seed(1, 101)]
LISTS = RegionLists(
    (
        _list(0, [100, 7, 7, 8, 9], [0.99, 0.8, 0.7, 0.2, -0.4]),
        _list(1, [101, 101], [0.9, 0.8]),
    )
)


def _draws(sampler: SeedPairSampler, query_id: int, count: int = 2000) -> Counter:
    pairs = [sampler.draw(query_id, np.random.default_rng([3, i])) for i in range(count)]
    assert all(pair == Pair(query_id, pair.target, (QUERY,)) for pair in pairs)
    return Counter(pair.target for pair in pairs)


@pytest.mark.parametrize(
    ("similarities", "power", "expected"),
    [
        ([0.8, 0.2, -0.4], 1.0, [1 / 2, 1 / 3, 1 / 6]),
        ([0.8, 0.2, -0.4], 2.0, [9 / 14, 4 / 14, 1 / 14]),
        ([0.8, 0.2, -0.4], 0.0, [1 / 3, 1 / 3, 1 / 3]),
        ([1.0, -1.0], 1.0, [1, 0]),
        ([-1.0, -1.0], 1.0, [1 / 2, 1 / 2]),
        ([1.0000001, -1.0000001], 1.0, [1, 0]),
        ([3.0, 1.0], 1.0, [1 / 2, 1 / 2]),
    ],
)
def test_the_probabilities_of_eq_8(similarities, power: float, expected: list[float]) -> None:
    found = sgs_probabilities(np.array(similarities, np.float32), power)
    assert found.tolist() == pytest.approx(expected) and found.dtype == np.float64
    if power == 1:
        assert sgs_probabilities(similarities).tolist() == pytest.approx(expected)


def test_candidates_are_the_best_regions_of_other_images() -> None:
    pool, similarities = pool_of_regions(SEEDS, LISTS, round_index=2, top_k=2)
    assert pool.stage == 2
    candidates = pool[0].candidates
    assert [one.image_id for one in candidates] == [7, 8]
    assert candidates[1].box == (3, 3, 23, 13)
    assert candidates[1].target.box == candidates[1].box and candidates[1].target.weight == 1
    assert similarities[0].tolist() == pytest.approx([0.8, 0.2])
    assert pool[1].candidates == () and len(similarities[1]) == 0
    assert pool[0].reference.box == SEEDS[0].primary.box


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        ({"top_k": -1}, [7, 8, 9]),
        ({"top_k": 0}, []),
        ({"top_k": 2, "gallery": {}}, [7, 8]),
        ({"top_k": 3, "one_box_per_image": False}, [7, 7, 8]),
        ({"top_k": 2, "keep_own_image": True}, [100, 7]),
    ],
)
def test_what_the_keys_keep(settings: dict, images: list[int]) -> None:
    pool, _ = pool_of_regions(SEEDS, LISTS, round_index=1, **settings)
    assert [one.image_id for one in pool[0].candidates] == images


def test_filtered_regions_make_room_for_the_next() -> None:
    gallery = {i: {"width": 20 if i == 7 else 64, "height": 48} for i in (7, 8, 9, 100, 101)}
    pool, _ = pool_of_regions(
        SEEDS, LISTS, round_index=1, top_k=1, box_filter=BoxFilter(max_area=0.1), gallery=gallery
    )
    assert [one.image_id for one in pool[0].candidates] == [8]
    with pytest.raises(ValueError, match="^a filter of boxes needs the gallery"):
        pool_of_regions(SEEDS, LISTS, round_index=1, top_k=1, box_filter=BoxFilter())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strategy": "sgs"}, {0: 1 / 2, 1: 1 / 3, 2: 1 / 6}),
        ({"strategy": "sgs", "top_k": 2}, {0: 3 / 5, 1: 2 / 5}),
        ({"strategy": "topk", "top_k": 2}, {0: 1 / 2, 1: 1 / 2}),
        ({"strategy": "sgs", "power": 2.0}, {0: 9 / 14, 1: 4 / 14, 2: 1 / 14}),
        ({"strategy": "threshold", "threshold": 0.2}, {0: 1 / 2, 1: 1 / 2}),
        ({"strategy": "threshold"}, {0: 1 / 2, 1: 1 / 2}),
        ({"strategy": "topk", "top_k": 1}, {0: 1}),
    ],
)
def test_how_often_each_candidate_is_drawn(settings: dict, expected: dict[int, float]) -> None:
    # The seed of which nothing is left comes first.
    pool, similarities = pool_of_regions(SEEDS[::-1], LISTS, round_index=1, top_k=-1)
    similarities[0] = similarities[0].astype(np.float64).round(6)
    sampler = SeedPairSampler(pool, similarities, **settings)
    # Nothing was found for seed 1 but on its own image.
    assert sampler.query_ids == (0,)
    counts = _draws(sampler, 0)
    assert {t: n / 2000 for t, n in counts.items()} == pytest.approx(expected, abs=0.04)
    assert counts == _draws(sampler, 0)


def test_settings_that_make_no_sense_are_errors() -> None:
    pool, similarities = pool_of_regions(SEEDS, LISTS, round_index=1, top_k=-1)
    with pytest.raises(ValueError, match="STRATEGY"):
        SeedPairSampler(pool, similarities, strategy="rss")
    for top_k in (0, -2):
        with pytest.raises(ValueError, match=f"^CST.SAMPLING.TOP_K is at least 1, .* got {top_k}"):
            SeedPairSampler(pool, similarities, top_k=top_k)
    with pytest.raises(ValueError, match="seed 0 has 3 candidates"):
        SeedPairSampler(pool, {**similarities, 0: np.ones(2)})
    message = (
        "^no seed of round 1 has a region to train on: the lists are empty, hold only the seeds' "
        r"own images \(CST.RANK_LISTS.KEEP_OWN_IMAGE\), or nothing passes CST.SAMPLING.THRESHOLD"
    )
    with pytest.raises(ValueError, match=message):
        SeedPairSampler(pool, similarities, strategy="threshold", threshold=0.9)


def test_a_drawn_pair_becomes_a_training_item(tmp_path) -> None:
    for image_id in (7, 8, 9, 100):
        cv2.imwrite(str(tmp_path / f"{image_id}.png"), np.full((48, 64, 3), image_id, np.uint8))
    gallery = {
        i: {"file_name": str(tmp_path / f"{i}.png"), "width": 64, "height": 48} for i in (7, 8, 9)
    }
    seed = _seed(0, 100, str(tmp_path / "100.png"))
    pool, similarities = pool_of_regions([seed], LISTS, round_index=1, top_k=-1)
    sampler = SeedPairSampler(pool, similarities)
    mapper = PairMapper(
        pool,
        gallery,
        {0: seed},
        augmentations=[],
        crop=CropGeometry(32, 0.0, "square"),
        image_format="RGB",
        masks=False,
        flip_probability=0.0,
    )
    dataset = PairDataset(sampler.query_ids, sampler.draw, mapper, seed=5)
    boxes = {7: [1, 1, 21, 11], 8: [3, 3, 23, 13], 9: [4, 4, 24, 14]}
    seen = set()
    for i in range(20):
        item = dataset[i]
        image_id = int(item["image"][0, 0, 0])
        seen.add(image_id)
        assert item["instances"].gt_boxes.tensor.tolist() == [boxes[image_id]]
        assert item["instances"].gt_weights.tolist() == [1]
        assert int(item["query_crops"][0].max()) == 100
        assert int(dataset[i]["image"][0, 0, 0]) == image_id
    assert seen == {7, 8, 9}


@pytest.mark.parametrize(
    ("fraction", "top_k", "expected"),
    [
        (1.0, 2, [4, 5, 6, 7]),
        # Means of the first two: 0.5, 0.6, nothing, 0.6.
        (0.75, 2, [4, 5, 7]),
        (0.5, 2, [5, 7]),
        (0.26, 2, [5, 7]),
        (0.25, 2, [5]),
        (0.25, 1, [4]),
        (1e-9, 1, [4]),
    ],
)
def test_seeds_whose_regions_agree_stay(fraction: float, top_k: int, expected: list[int]) -> None:
    lists = RegionLists(
        (
            _list(4, [1, 2, 3], [0.9, 0.1, 0.1]),
            _list(5, [1, 2, 3], [0.7, 0.5, -0.9]),
            _list(6, [], []),
            _list(7, [1], [0.6]),
        )
    )
    kept = agreeing_seeds(lists, fraction, top_k)
    assert [one.query_id for one in kept.lists] == expected
    assert all(one is lists[one.query_id] for one in kept.lists)


@pytest.mark.parametrize(("fraction", "top_k"), [(0.0, 1), (1.1, 1), (0.5, 0)])
def test_other_parts_of_the_seeds_are_refused(fraction: float, top_k: int) -> None:
    message = (
        f"^CST.SAMPLING.SEED_FRACTION is {fraction} and SEED_TOP_K {top_k}: use a part in "
        r"\(0, 1\] and at least 1 region$"
    )
    with pytest.raises(ValueError, match=message):
        agreeing_seeds(LISTS, fraction, top_k)


def test_equal_seeds_stay_in_the_order_of_their_lists_and_empty_ones_come_last() -> None:
    lists = RegionLists(tuple(_list(i, [1], [0.25 + 0.5 * (i % 2)]) for i in range(100)))
    kept = [one.query_id for one in agreeing_seeds(lists, 0.7, 1).lists]
    assert kept == sorted([*range(1, 100, 2), *range(0, 40, 2)])
    lists = RegionLists((_list(4, [], []), _list(5, [1], [-1.0])))
    assert [one.query_id for one in agreeing_seeds(lists, 0.5, 1).lists] == [5]
