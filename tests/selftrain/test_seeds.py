"""Query seeds: equal shares, filters, the same draw again."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest

from spil_d2.ops.numpy_boxes import BoxFilter
from spil_d2.selftrain.seeds import (
    QuerySeeds,
    count_by_source,
    sample_seeds,
    seed_candidates,
)

ALL = BoxFilter()


def _gallery(n: int = 30) -> dict[int, dict]:
    return {
        i: {"image_id": i, "file_name": f"pictures/{i}.jpg", "width": 100, "height": 80}
        for i in range(10, 10 + n)
    }


def _proposals(seed: int, per_image: int = 6, n: int = 30) -> dict:
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(10, 10 + n):
        corners = rng.uniform(0, 50, (per_image, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (per_image, 2))], axis=1)
        found[i] = (boxes.astype(np.float32), -np.sort(-rng.random(per_image)).astype(np.float32))
    return found


def _sample(proposals: dict, num_seeds: int, **changes) -> QuerySeeds:
    settings = {"top_k": 5, "box_filter": ALL, "seed": 0, **changes}
    return sample_seeds(proposals, _gallery(), num_seeds=num_seeds, **settings)


def _rows(seeds: QuerySeeds, source: str) -> set[tuple]:
    chosen = seeds.sources == seeds.source_names.index(source)
    return {
        (i, *box) for i, box in zip(seeds.image_ids[chosen].tolist(), seeds.boxes[chosen].tolist())
    }


def test_each_source_gives_an_equal_share_without_replacement() -> None:
    sources = {"a": _proposals(1), "b": _proposals(2), "c": _proposals(3)}
    seeds = _sample(sources, 62)
    assert count_by_source(seeds) == {"a": 21, "b": 21, "c": 20}
    assert [len(_rows(seeds, name)) for name in "abc"] == [21, 21, 20]


def test_ids_are_positions_in_the_order_of_source_image_and_place() -> None:
    proposals = {"a": _proposals(1), "b": _proposals(2)}
    seeds = _sample(proposals, 80)
    keys = []
    for source, image_id, box in zip(seeds.sources, seeds.image_ids.tolist(), seeds.boxes):
        boxes = proposals["ab"[source]][image_id][0]
        keys.append((source, image_id, int(np.flatnonzero((boxes == box).all(axis=1))[0])))
    assert keys == sorted(keys)
    queries = seeds.queries(_gallery())
    assert [one.id for one in queries] == list(range(80))
    assert queries[3].instance_id is None
    assert queries[3].own_image_ids == {seeds.image_ids[3]}
    assert queries[3].primary.box == tuple(seeds.boxes[3].tolist())
    assert queries[3].primary.file_name == f"pictures/{seeds.image_ids[3]}.jpg"


def test_the_draw_depends_on_the_seed_alone() -> None:
    a, b = _proposals(1), _proposals(2)
    first = _sample({"a": a, "b": b}, 40)
    again = _sample({"b": b, "a": dict(reversed(a.items()))}, 40)
    assert _rows(first, "a") == _rows(again, "a") and _rows(first, "b") == _rows(again, "b")
    assert _rows(first, "a") != _rows(_sample({"a": a, "b": b}, 40, seed=1), "a")


def test_the_draw_is_uniform_over_the_first_k_of_an_image() -> None:
    proposals = _proposals(1, per_image=6, n=3)
    counts: Counter = Counter()
    for seed in range(600):
        counts.update(_rows(_sample({"a": proposals}, 3, top_k=4, seed=seed), "a"))
    allowed = {(i, *box) for i, (boxes, _) in proposals.items() for box in boxes[:4].tolist()}
    assert set(counts) == allowed
    # 600 draws of 3 of 12: 150 each, with a deviation of 10.6.
    assert all(105 < count < 195 for count in counts.values())


def test_a_source_with_too_few_gives_all_and_the_others_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = {10: _proposals(1)[10]}
    seeds = _sample({"a": few, "b": _proposals(2)}, 40)
    assert count_by_source(seeds) == {"a": 5, "b": 20}
    assert caplog.messages == [
        "source a has 5 proposals for its share of 20 seeds: all are taken, and the other sources "
        "keep their shares"
    ]


def test_a_source_with_just_its_share_is_no_matter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    few = {10: _proposals(1)[10]}
    assert count_by_source(_sample({"a": _proposals(2), "b": few}, 10)) == {"a": 5, "b": 5}
    assert caplog.messages == [
        "5 seeds of 150 proposals from source a",
        "5 seeds of 5 proposals from source b",
    ]


def test_a_source_without_a_seed_is_counted() -> None:
    small = {10: (np.array([[0, 0, 5, 5]], np.float32), np.ones(1, np.float32))}
    seeds = _sample({"a": _proposals(1), "b": small}, 10, box_filter=BoxFilter(min_side=6))
    assert count_by_source(seeds) == {"a": 5, "b": 0}


def test_one_seed_of_the_best_proposal_of_an_image() -> None:
    seeds = _sample({"a": {10: _proposals(1)[10]}}, 1, top_k=1)
    assert seeds.boxes.tolist() == _proposals(1)[10][0][:1].tolist()
    kinds = {name: getattr(seeds, name).dtype for name in ("image_ids", "boxes", "scores")}
    assert kinds == {"image_ids": np.int64, "boxes": np.float32, "scores": np.float32}


def test_equal_proposals_keep_the_order_of_their_source() -> None:
    boxes = np.array([[i, 0, i + 5, 5] for i in range(90)], np.float32)
    # Two of three differ in double precision alone.
    scores = np.array([0.5, 0.5 + 1e-12, 0.25] * 30)
    found, of_boxes = seed_candidates((boxes, scores), _gallery()[10], 70, ALL)
    expected = [i for i in range(90) if i % 3 < 2] + list(range(2, 30, 3))
    assert found[:, 0].tolist() == expected
    assert of_boxes.dtype == found.dtype == np.float32


def test_the_filter_comes_before_the_cut_at_k_and_boxes_are_clipped() -> None:
    boxes = np.array([[0, 0, 5, 50], [90, 70, 130, 120], [0, 0, 100, 80], [10, 10, 40, 40]])
    proposals = {"a": {10: (boxes.astype(np.float32), np.array([0.9, 0.8, 0.7, 0.6]))}}
    kept = BoxFilter(min_side=10, max_area=0.9)
    seeds = _sample(proposals, 9, top_k=2, box_filter=kept)
    assert seeds.boxes.tolist() == [[90, 70, 100, 80], [10, 10, 40, 40]]
    assert seeds.scores.tolist() == pytest.approx([0.8, 0.6])


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no proposal"):
        _sample({"a": _proposals(1)}, 5, box_filter=BoxFilter(min_side=500))
    for proposals, num_seeds, top_k, got in (
        ({}, 5, 3, r"\[\], 5 and 3"),
        ({"a": {}}, 0, 3, r"\['a'\], 0 and 3"),
        ({"a": {}}, 5, 0, r"\['a'\], 5 and 0"),
    ):
        message = "^seeds need a source of proposals, num_seeds >= 1 and top_k >= 1, got " + got
        with pytest.raises(ValueError, match=message):
            _sample(proposals, num_seeds, top_k=top_k)
    with pytest.raises(KeyError, match="image 10"):
        _sample({"a": {10: _proposals(1)[10]}}, 5).queries({})


def test_seeds_survive_the_disk(tmp_path) -> None:
    seeds = _sample({"a": _proposals(1), "b": _proposals(2)}, 20)
    seeds.save(tmp_path / "seeds.npz")
    back = QuerySeeds.load(tmp_path / "seeds.npz")
    assert back.queries(_gallery()) == seeds.queries(_gallery())
    assert back.source_names == seeds.source_names
    assert np.array_equal(back.sources, seeds.sources)
    assert np.array_equal(back.scores, seeds.scores)
    for name in ("image_ids", "boxes", "scores", "sources"):
        assert getattr(back, name).dtype == getattr(seeds, name).dtype


def test_columns_of_other_shapes_are_named() -> None:
    two, three = np.zeros(2, np.int64), np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"^query seeds: boxes is \(3, 4\), not \(2, 4\)"):
        QuerySeeds(two, three, two.astype(np.float32), two, ("a",))
    with pytest.raises(ValueError, match=r"^query seeds: scores is \(3,\), not \(2,\)"):
        QuerySeeds(two, three[:2], three[:, 0], two, ("a",))


def test_a_damaged_file_is_named(tmp_path) -> None:
    (tmp_path / "seeds.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match="seeds.npz is not a readable"):
        QuerySeeds.load(tmp_path / "seeds.npz")


def test_what_seeds_are_drawn_from_may_be_chosen_before() -> None:
    """Choosing an image's best proposals first, and again when seeds are drawn, changes nothing."""
    proposals, gallery = {"a": _proposals(1), "b": _proposals(2)}, _gallery()
    settings = {"top_k": 2, "box_filter": BoxFilter(min_side=8)}
    chosen = {
        name: {i: seed_candidates(one, gallery[i], **settings) for i, one in of_images.items()}
        for name, of_images in proposals.items()
    }
    assert max(len(boxes) for boxes, _ in chosen["a"].values()) == 2
    before, after = (_sample(some, 40, **settings) for some in (proposals, chosen))
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_array_equal(before.image_ids, after.image_ids)
