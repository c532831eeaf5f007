"""Region lists: several boxes an image, a stable order, round trips, damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.structures import RankList, RankLists, RegionList, RegionLists


def _given(**change: object) -> dict:
    given = {
        "image_ids": np.array([7, 7, 2]),
        "boxes": np.array([[0, 0, 5, 5], [1, 1, 9, 9], [2, 2, 4, 4]], np.float32),
        "similarities": np.array([0.5, 0.5, -0.1], np.float32),
    }
    return {**given, **change}


def _random_list(query_id: int, count: int, scores: bool) -> RegionList:
    rng = np.random.default_rng(query_id)
    return RegionList.ranked(
        query_id,
        rng.integers(0, 4, count),
        rng.random((count, 4)),
        rng.integers(0, 5, count) / 4,
        rng.random(count) if scores else None,
    )


def test_several_boxes_of_one_image_are_allowed() -> None:
    one = RegionList(1, **_given())
    assert len(one) == 3
    assert one.top(2).image_ids.tolist() == [7, 7]
    assert one.top(99).similarities.tolist() == one.similarities.tolist()
    assert one.take(np.array([0, 2])).boxes.tolist() == [[0, 0, 5, 5], [2, 2, 4, 4]]
    assert one.top(1).localizer_scores is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((2, 4), np.float32)}, r"query 1: boxes is \(2, 4\), not \(3, 4\)"),
        ({"localizer_scores": np.zeros(2, np.float32)}, "localizer_scores"),
        (
            {"similarities": np.array([0.1, 0.2, 0.3], np.float32)},
            "not sorted by similarity; RegionList.ranked sorts it",
        ),
        ({"similarities": np.array([0.1, np.nan, 0.0], np.float32)}, "not a finite number"),
        ({"boxes": np.full((3, 4), np.inf, np.float32)}, "not a finite number"),
    ],
)
def test_a_wrong_list_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionList(1, **_given(**change))


def test_ranked_sorts_by_similarity_then_image_then_box_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (float(s), int(i), tuple(map(float, b)), float(p))
        for s, i, b, p in zip(
            rng.integers(0, 3, 40), rng.integers(0, 4, 40), rng.integers(0, 3, (40, 4)), range(40)
        )
    ]
    unique = list({row[:3]: row for row in rows}.values())
    expected = sorted(unique, key=lambda row: (-row[0], row[1], row[2]))
    for seed in range(3):
        shuffled = [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]
        similarity, image, box, score = map(np.array, zip(*shuffled))
        one = RegionList.ranked(5, image, box, similarity, score)
        assert one.similarities.tolist() == [row[0] for row in expected]
        assert one.image_ids.tolist() == [row[1] for row in expected]
        assert one.boxes.tolist() == [list(row[2]) for row in expected]
        assert one.localizer_scores is not None
        assert one.localizer_scores.tolist() == [row[3] for row in expected]


def test_an_empty_list_can_be_ranked() -> None:
    empty = RegionList.ranked(1, np.zeros(0), np.zeros((0, 4)), np.zeros(0))
    assert len(empty) == 0
    assert empty.image_ids.dtype == np.int64


@pytest.mark.parametrize("scores", [True, False])
def test_region_lists_survive_the_disk(tmp_path, scores: bool) -> None:
    lists = RegionLists(tuple(_random_list(q, n, scores) for q, n in ((3, 5), (1, 0), (2, 7))))
    lists.save(tmp_path / "lists.npz")
    back = RegionLists.load(tmp_path / "lists.npz")
    assert list(back) == [3, 1, 2]
    for query_id in lists:
        for name in ("image_ids", "boxes", "similarities", "localizer_scores"):
            before, after = getattr(lists[query_id], name), getattr(back[query_id], name)
            if before is None:
                assert after is None
            else:
                assert np.array_equal(before, after)
                assert before.dtype == after.dtype


def test_no_lists_survive_the_disk(tmp_path) -> None:
    RegionLists(()).save(tmp_path / "lists.npz")
    assert len(RegionLists.load(tmp_path / "lists.npz")) == 0


def test_top_cuts_every_list() -> None:
    lists = RegionLists((_random_list(1, 9, True), _random_list(2, 2, True))).top(4)
    assert [len(lists[q]) for q in lists] == [4, 2]


def test_two_lists_of_one_query_are_refused() -> None:
    with pytest.raises(ValueError, match="two region lists"):
        RegionLists((_random_list(1, 2, True), _random_list(1, 3, True)))


@pytest.mark.parametrize("kept", [0, 10, -10])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, kept: int) -> None:
    path = tmp_path / "lists.npz"
    RegionLists((_random_list(1, 3, True),)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"lists\.npz is not a readable file of region lists"):
        RegionLists.load(path)


def test_a_missing_file_is_a_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        RegionLists.load(tmp_path / "none.npz")


def test_rank_lists_and_region_lists_share_the_format(tmp_path) -> None:
    ranks = RankLists(
        (RankList(4, np.array([9]), np.ones((1, 4), np.float32), np.ones(1, np.float32)),)
    )
    ranks.save(tmp_path / "ranks.npz")
    regions = RegionLists.load(tmp_path / "ranks.npz")
    assert regions[4].image_ids.tolist() == [9]
