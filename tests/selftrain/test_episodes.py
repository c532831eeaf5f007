"""Episodes show one class: all its boxes, crops from elsewhere, and a class that is absent."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from detectron2.structures import BoxMode

from spil_d2.selftrain.episodes import EpisodeSampler, build_episodes
from spil_d2.structures import Reference, Target


def record(image_id: int, *boxes: tuple) -> dict:
    """An image of 100 x 80 with (category, xywh[, crowd]) annotations."""
    return {
        "image_id": image_id,
        "file_name": f"{image_id}.jpg",
        "width": 100,
        "height": 80,
        "annotations": [
            {
                "category_id": category,
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "iscrowd": int(bool(crowd)),
            }
            for category, box, *crowd in boxes
        ],
    }


GALLERY = [
    record(1, (0, [10, 10, 30, 30]), (0, [50, 10, 30, 30]), (1, [0, 0, 20, 20])),
    record(2, (0, [5, 5, 40, 40])),
    record(3, (1, [5, 5, 40, 40]), (1, [60, 30, 60, 70])),
    record(4, (2, [20, 20, 40, 40])),
    record(5, (2, [1, 1, 8, 8]), (0, [0, 0, 90, 70], True)),
    record(6),
]


@pytest.fixture
def episodes():
    return build_episodes(GALLERY, seed=0, min_support_side=16)


def test_a_target_is_all_boxes_of_the_class_in_the_image(episodes) -> None:
    found = {
        (one.query_id, candidate.image_id): {
            candidate.target.box,
            *(box for box, weight in candidate.target.extras if weight == 1.0),
        }
        for one in episodes.pool.queries
        for candidate in one.candidates
    }
    assert found == {
        (0, 1): {(10, 10, 40, 40), (50, 10, 80, 40)},
        (0, 2): {(5, 5, 45, 45)},
        (1, 1): {(0, 0, 20, 20)},
        # Cut at the image's borders.
        (1, 3): {(5, 5, 45, 45), (60, 30, 100, 80)},
        (2, 4): {(20, 20, 60, 60)},
        (2, 5): {(1, 1, 9, 9)},
    }
    boxes = Counter(one.query_id for one in episodes.pool.queries for _ in one.candidates)
    assert boxes == {0: 3, 1: 3, 2: 2}


def test_queries_are_classes_and_small_boxes_come_last(episodes) -> None:
    assert [(q.id, q.category_id) for q in episodes.queries] == [(0, 0), (1, 1), (2, 2)]
    assert [c.image_id for c in episodes.pool[2].candidates] == [4, 5]
    again = build_episodes(GALLERY, seed=0, min_support_side=16)
    assert again == episodes and again != build_episodes(GALLERY, seed=1, min_support_side=16)


@pytest.mark.parametrize("max_supports", [-1, 2])
def test_drawn_episodes_keep_the_rules(episodes, max_supports: int) -> None:
    sampler = EpisodeSampler(episodes, num_crops=2, max_supports=max_supports)
    assert sampler.query_ids == (0, 1, 2)
    present = {one["image_id"]: {a["category_id"] for a in one["annotations"]} for one in GALLERY}
    seen = set()
    for i in range(600):
        query_id = i % 3
        pair = sampler.draw(query_id, np.random.default_rng([7, i]))
        assert pair == sampler.draw(query_id, np.random.default_rng([7, i]))
        candidates = episodes.pool[query_id].candidates
        image_id = candidates[pair.target].image_id
        seen.add((query_id, image_id))
        assert 1 <= len(set(pair.support)) == len(pair.support) <= 2
        assert all(candidates[p].image_id != image_id for p in pair.support)
        assert max_supports < 0 or max(*pair.support, *pair.negative_support) < max_supports
        # Image 5 has a crowd of class 0: it does not lack it.
        assert pair.negative_id is not None and pair.negative_id not in present[image_id]
        others = episodes.pool[pair.negative_id].candidates
        assert pair.negative_support
        assert all(others[p].image_id != image_id for p in pair.negative_support)
    assert seen == {(0, 1), (0, 2), (1, 1), (1, 3), (2, 4), (2, 5)}


def test_a_class_is_a_query_whose_reference_is_its_first_support_box(episodes) -> None:
    assert episodes.pool.stage == 0
    for query, one in zip(episodes.queries, episodes.pool.queries, strict=True):
        first = one.candidates[0]
        assert query.id == query.instance_id == query.category_id == one.query_id
        assert query.references == (Reference(f"{first.image_id}.jpg", 100, 80, first.box),)
        assert one.reference == Target(first.box, 1.0)


def test_what_is_left_of_a_box_has_a_pixel_on_each_side() -> None:
    tiny = [[50, 10, 0.9, 30], [10, 50, 30, 0.9], [99.5, 70, 30, 30], [120, 10, 30, 30]]
    boxes = [(0, [50, 10, 1, 30]), (0, [10, 50, 30, 1]), *((0, box) for box in tiny)]
    (pool,) = build_episodes([record(1, *boxes)], seed=0).pool.queries
    assert {one.box for one in pool.candidates} == {(50, 10, 51, 40), (10, 50, 40, 51)}


@pytest.mark.parametrize("seed", range(6))
def test_boxes_with_a_side_of_the_least_length_are_among_the_first(seed: int) -> None:
    large = [[0, 0, 16, 2], [0, 0, 2, 16], [70, 60, 16, 3], [60, 50, 3, 16]]
    small = [[0, 0, 15, 15], [80, 10, 8, 8], [10, 60, 8, 8], [80, 60, 15, 15]]
    gallery = [record(1, *((0, box) for box in large + small))]
    (pool,) = build_episodes(gallery, seed=seed, min_support_side=16).pool.queries
    longest = [max(b[2] - b[0], b[3] - b[1]) for b in (one.box for one in pool.candidates)]
    assert [side >= 16 for side in longest] == [True] * 4 + [False] * 4


def test_annotations_that_say_nothing_of_crowds_are_no_crowds() -> None:
    one = record(1, (0, [0, 0, 20, 20]))
    del one["annotations"][0]["iscrowd"]
    assert len(build_episodes([one], seed=0).pool[0].candidates) == 1


@pytest.mark.parametrize("contrastive", [True, False])
def test_an_episode_has_five_crops_of_its_class(contrastive: bool) -> None:
    gallery = [record(i, (i % 2, [0, 0, 50, 50])) for i in range(16)]
    sampler = EpisodeSampler(build_episodes(gallery, seed=0), contrastive=contrastive)
    for i in range(20):
        pair = sampler.draw(1, np.random.default_rng(i))
        assert pair.query_id == 1 and len(set(pair.support)) == 5
        assert (pair.negative_id, len(pair.negative_support)) == (
            (0, 5) if contrastive else (None, 0)
        )


def test_an_image_with_all_crops_is_no_target() -> None:
    gallery = [record(1, (0, [0, 0, 50, 50])), record(2, (0, [0, 0, 5, 5]))]
    episodes = build_episodes(gallery, seed=0, min_support_side=16)
    sampler = EpisodeSampler(episodes, max_supports=1)
    pairs = [sampler.draw(0, np.random.default_rng(i)) for i in range(20)]
    assert {(p.target, p.support, p.negative_id) for p in pairs} == {(1, (0,), None)}


def test_what_gives_no_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="has a box"):
        build_episodes([record(1)], seed=0)
    alone = build_episodes([record(1, (0, [0, 0, 5, 5]))], seed=0)
    message = (
        "^no class of the base training has boxes on two images: an episode needs one to look at "
        "and another to take crops from$"
    )
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(alone)
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(build_episodes(GALLERY, seed=0), max_supports=0)
