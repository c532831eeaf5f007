"""Ground truth of a dataset, by query."""

from __future__ import annotations

import logging

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
        truth = GroundTruth.from_dataset(dataset_dicts, [*queries, make_query(500, None)])
    assert truth.skipped_query_ids == (400, 500)
    assert "400, 500" in caplog.text


def test_own_image_takes_no_rank(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    judged = ground_truth.judge(rank_lists[100])
    assert judged.image_ids.tolist() == [2, 7, 3]
    assert judged.hits.tolist() == [True, False, True]
    assert judged.ious.tolist() == pytest.approx([1, 0, 0.5])
    assert judged.num_relevant == 2


def test_missing_query_is_judged_empty_and_logged(
    ground_truth: GroundTruth, rank_lists: RankLists, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        judged = ground_truth.judge_all(RankLists(rank_lists.lists[:2]))
    assert [one.query_id for one in judged] == [100, 200, 300]
    assert len(judged[2].hits) == 0
    assert "no results and count as zero: 300" in caplog.text


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


def test_ids_used_twice_are_refused(dataset_dicts: list[dict], queries: list[Query]) -> None:
    with pytest.raises(ValueError, match="image_id 1 is used twice"):
        GroundTruth.from_dataset([*dataset_dicts, dataset_dicts[0]], queries)
    with pytest.raises(ValueError, match="different ids"):
        GroundTruth.from_dataset(dataset_dicts, [queries[0], queries[0]])
