"""Ground truth of a dataset, by query."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import numpy as np
import pytest

from spil_d2.evaluation import GroundTruth
from spil_d2.structures import Query, RankLists

from .conftest import make_list, make_query


def test_own_images_are_not_relevant(ground_truth: GroundTruth) -> None:
    assert {q: set(images) for q, images in ground_truth.relevant.items()} == {
        100: {2, 3},
        200: {4},
        300: {5, 6},
    }
    np.testing.assert_array_equal(ground_truth.relevant[100][3], [[20, 20, 30, 40]])
    assert len(ground_truth.relevant[300][6]) == 2


def test_queries_without_relevant_images_are_counted_and_logged(
    dataset_dicts: list[dict], queries: list[Query], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        more = (make_query(500, None), make_query(600, 99))
        truth = GroundTruth.from_dataset(dataset_dicts, [*queries, *more])
    assert truth.skipped_query_ids == (400, 500, 600)
    assert caplog.messages == [
        "3 of 6 queries have no relevant gallery image besides their own and are not evaluated: "
        "400, 500, 600"
    ]


def test_an_image_may_have_no_annotations_and_boxes_are_single_precision(
    dataset_dicts: list[dict], queries: list[Query]
) -> None:
    bare = {"file_name": "9.jpg", "image_id": 9, "height": 100, "width": 100}
    truth = GroundTruth.from_dataset([*dataset_dicts, bare], queries)
    assert truth.image_ids == set(range(1, 10))
    assert truth.relevant[300][6].dtype == np.float32


def test_own_image_takes_no_rank(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    judged = ground_truth.judge(rank_lists[100])
    assert judged.image_ids.tolist() == [2, 7, 3]
    assert judged.hits.tolist() == [True, False, True]
    assert judged.ious.tolist() == pytest.approx([1, 0, 0.5])
    assert judged.num_relevant == 2


def test_probabilities_stay_with_their_images(
    ground_truth: GroundTruth, rank_lists: RankLists
) -> None:
    p = np.array([0.9, 0.1, 0.4, 0.2], np.float32)
    judged = ground_truth.judge(replace(rank_lists[100], probabilities=p))
    assert judged.probabilities is not None
    assert judged.probabilities.tolist() == p[1:].tolist()
    assert ground_truth.judge(rank_lists[100]).probabilities is None


def test_missing_query_is_judged_empty_and_logged(
    ground_truth: GroundTruth, rank_lists: RankLists, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        judged = ground_truth.judge_all(RankLists(rank_lists.lists[:2]))
    assert [one.query_id for one in judged] == [100, 200, 300]
    assert len(judged[2].hits) == 0
    assert judged[2].image_ids.dtype == np.int64
    assert caplog.messages == ["1 of 3 queries have no results and count as zero: 300"]


def test_a_skipped_query_may_have_a_list(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    lists = RankLists((*rank_lists.lists, make_list(400, [(7, (0, 0, 1, 1))])))
    assert len(ground_truth.judge_all(lists)) == 3


def test_lists_of_another_dataset_are_refused(ground_truth: GroundTruth) -> None:
    with pytest.raises(ValueError, match="unknown queries: 999"):
        ground_truth.judge_all(RankLists((make_list(999, []),)))
    with pytest.raises(ValueError, match="not in the gallery: 77"):
        ground_truth.judge(make_list(200, [(77, (0, 0, 1, 1))]))
    with pytest.raises(ValueError, match="not finite"):
        ground_truth.judge(make_list(200, [(4, (0, 0, float("nan"), 1))]))
    with pytest.raises(ValueError, match="no ground truth"):
        ground_truth.judge(make_list(400, []))


@pytest.mark.parametrize("count", [10, 11])
def test_of_many_ids_the_first_ten_are_named(ground_truth: GroundTruth, count: int) -> None:
    lists = RankLists(tuple(make_list(900 + i, []) for i in range(count)))
    named = ", ".join(str(900 + i) for i in range(10)) + (", ... (11 in all)" if count > 10 else "")
    message = f"rank lists of unknown queries: {named}; the dataset has 4 queries"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ground_truth.judge_all(lists)


def test_ids_used_twice_are_refused(dataset_dicts: list[dict], queries: list[Query]) -> None:
    with pytest.raises(ValueError, match=r"^1\.jpg: image_id 1 is used twice$"):
        GroundTruth.from_dataset([*dataset_dicts, dataset_dicts[0]], queries)
    with pytest.raises(ValueError, match="different ids"):
        GroundTruth.from_dataset(dataset_dicts, [queries[0], queries[0]])
