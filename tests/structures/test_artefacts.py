"""Rank lists and sample pools: round trips, validation, damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.structures import (
    Candidate,
    Query,
    QueryPool,
    RankList,
    RankLists,
    Reference,
    SamplePool,
    Target,
)


def _rank_list(query_id: int, count: int, probabilities: bool = True) -> RankList:
    rng = np.random.default_rng(query_id)
    return RankList(
        query_id,
        rng.permutation(100)[:count].astype(np.int64),
        rng.random((count, 4)).astype(np.float32),
        -np.sort(-rng.random(count)).astype(np.float32),
        rng.random(count).astype(np.float32) if probabilities else None,
    )


@pytest.mark.parametrize("probabilities", [True, False])
def test_rank_lists_survive_the_disk(tmp_path, probabilities: bool) -> None:
    lists = RankLists(tuple(_rank_list(q, n, probabilities) for q, n in ((3, 5), (1, 0), (2, 7))))
    lists.save(tmp_path / "lists.npz")
    back = RankLists.load(tmp_path / "lists.npz")
    assert list(back) == [3, 1, 2]
    for query_id in lists:
        for name in ("image_ids", "boxes", "similarities", "probabilities"):
            before, after = getattr(lists[query_id], name), getattr(back[query_id], name)
            assert (before is None and after is None) or np.array_equal(before, after)


def test_coco_results_are_xywh_with_ranks_from_1() -> None:
    one = RankList(
        4, np.array([9]), np.array([[1, 2, 4, 8]], np.float32), np.array([0.5], np.float32)
    )
    assert RankLists((one,)).to_coco_results() == [
        {
            "image_id": 9,
            "category_id": 1,
            "bbox": [1.0, 2.0, 3.0, 6.0],
            "score": 0.5,
            "query_id": 4,
            "rank": 1,
        }
    ]


def test_coco_results_are_rounded_and_carry_the_probabilities() -> None:
    lists = RankLists((_rank_list(3, 4), _rank_list(1, 2, probabilities=False)))
    expected = []
    for one in lists.lists:
        for i in range(len(one)):
            x0, y0, x1, y1 = map(float, one.boxes[i])
            record = {"image_id": int(one.image_ids[i]), "category_id": 1}
            sides = (np.float32(x1) - np.float32(x0), np.float32(y1) - np.float32(y0))
            record["bbox"] = [float(f"{float(v):.2f}") for v in (x0, y0, *sides)]
            record["score"] = float(f"{float(one.similarities[i]):.6f}")
            record |= {"query_id": one.query_id, "rank": i + 1}
            if one.probabilities is not None:
                record["probability"] = float(f"{float(one.probabilities[i]):.6f}")
            expected.append(record)
    assert lists.to_coco_results() == expected


def _pool() -> SamplePool:
    mask = {"size": [4, 5], "counts": "0d0"}
    target = Target((1.0, 2.0, 3.0, 4.0), 0.5, mask, (((0.0, 0.0, 1.0, 1.0), 0.25),))
    candidates = (Candidate(5, (1.0, 2.0, 3.0, 4.0), target), Candidate(6, (0.0, 0.0, 2.0, 2.0)))
    return SamplePool(1, (QueryPool(8, Target((0.0, 0.0, 9.0, 9.0), 1.0), candidates),))


def test_a_pool_survives_the_disk_and_equal_pools_are_equal_files(tmp_path) -> None:
    _pool().save(tmp_path / "a.gz")
    _pool().save(tmp_path / "b.gz")
    assert SamplePool.load(tmp_path / "a.gz").queries == _pool().queries
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize("kept", [0, 10, -10])
@pytest.mark.parametrize("kind", [RankLists, SamplePool])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, kind, kept: int) -> None:
    path = tmp_path / "artefact"
    whole = _pool() if kind is SamplePool else RankLists((_rank_list(1, 3),))
    whole.save(path)
    path.write_bytes(path.read_bytes()[:kept])
    what = "sample pool" if kind is SamplePool else "file of rank lists"
    with pytest.raises(ValueError, match=f"artefact is not a readable {what}: "):
        kind.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((2, 4), np.float32)}, "boxes is"),
        ({"image_ids": np.array([1, 1, 2])}, "an image twice"),
        ({"similarities": np.array([0.1, 0.2, 0.3], np.float32)}, "not sorted"),
    ],
)
def test_a_wrong_rank_list_is_refused(change: dict, message: str) -> None:
    given = {
        "image_ids": np.array([1, 2, 3]),
        "boxes": np.zeros((3, 4), np.float32),
        "similarities": np.array([0.3, 0.2, 0.1], np.float32),
    }
    with pytest.raises(ValueError, match=message):
        RankList(1, **{**given, **change})


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (0, 5, 5, 5), (5, 5, 4, 9), (-1, 0, 5, 5), (0, 0, 101, 5)]
)
def test_a_reference_box_must_lie_in_its_picture(box) -> None:
    with pytest.raises(ValueError, match=r"^x\.jpg: box .* is empty or outside the picture"):
        Reference("x.jpg", 100, 80, box)


def test_a_reference_box_has_four_numbers() -> None:
    with pytest.raises(ValueError, match=r"^x\.jpg: a box is .*, got \(0, 0, 5\)$"):
        Reference("x.jpg", 100, 80, (0, 0, 5))  # type: ignore[arg-type]


def test_a_query_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="query 3"):
        Query(3, ())


@pytest.mark.parametrize("weight", [0.0, -0.5, 1.5])
def test_target_weights_lie_in_0_1(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        Target((0, 0, 1, 1), weight)
