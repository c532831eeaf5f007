"""Whole searches: reports, subsets, region lists and the localizer alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spil_d2.evaluation.ins_evaluator import (
    evaluate_localizer,
    evaluate_regions,
    judge_regions,
    read_subset,
    select_regions,
)
from spil_d2.evaluation.ins_protocol import PRESETS, Protocol, QueryTruth, build_protocol
from spil_d2.structures import RegionList, RegionLists

B = (0.0, 0.0, 100.0, 100.0)
FAR = (300.0, 300.0, 400.0, 400.0)
# Ids that are in another order than the names.
IMAGE_IDS = {"c1q": 50, "c2a": 40, "c3b": 30, "c1c": 20, "c2d": 10}


@pytest.fixture
def protocol() -> Protocol:
    return build_protocol(
        PRESETS["ins_prw"],
        IMAGE_IDS,
        [
            QueryTruth("0_0", 5, ("c1q",), 100.0, (("c2a", B), ("c3b", B), ("c1c", B))),
            QueryTruth("1_0", 6, ("c1q",), 100.0, (("c2d", B),)),
            QueryTruth("1_1", 7, ("c1q",), 100.0, (("c1c", B),)),
        ],
    )


def make_list(query_id: int, rows: list[tuple[int, tuple, float]]) -> RegionList:
    """(image id, box, localizer score), the similarities falling."""
    return RegionList(
        query_id,
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        -np.arange(len(rows), dtype=np.float32),
        np.array([row[2] for row in rows], np.float32),
    )


LIST = make_list(5, [(40, B, 0.1), (10, B, 0.9), (30, FAR, 0.8), (30, B, 0.7), (50, B, 1.0)])


def test_region_lists_are_judged_by_the_ids_of_the_dataset(protocol) -> None:
    report = judge_regions(protocol, RegionLists((LIST, make_list(6, [(10, FAR, 0.5)]))))
    first, second = report.outcomes
    assert first.tp_ranks.tolist() == [1, 4]
    assert (first.num_gt, first.num_boxes) == (2, 4)
    assert second.tp_ranks.tolist() == []
    metrics = evaluate_regions(protocol, RegionLists((LIST,)))
    assert metrics["ins_prw/global/mAP_retrieval@IoU0.5"] == pytest.approx(100 * 0.75 / 2)
    assert metrics["ins_prw/global/rank-1@IoU0.5"] == 50
    assert metrics["ins_prw/global/recall@IoU0.5"] == 50


def test_a_missing_list_counts_as_zero_and_is_told(protocol, caplog) -> None:
    with caplog.at_level("WARNING", logger="spil_d2"):
        metrics = evaluate_regions(protocol, RegionLists(()))
    assert set(metrics.values()) == {0.0}
    assert "2 of 2 queries have no box" in caplog.text


def test_a_list_of_a_skipped_query_is_no_matter(protocol) -> None:
    lists = RegionLists((LIST, make_list(7, [(20, B, 0.5)])))
    assert evaluate_regions(protocol, lists) == evaluate_regions(protocol, RegionLists((LIST,)))


def test_unknown_ids_are_errors(protocol) -> None:
    with pytest.raises(ValueError, match="first of query 99"):
        evaluate_regions(protocol, RegionLists((make_list(99, []),)))
    with pytest.raises(ValueError, match="image 77"):
        evaluate_regions(protocol, RegionLists((make_list(5, [(77, B, 0.5)]),)))


def test_a_report_becomes_json(protocol) -> None:
    report = judge_regions(protocol, RegionLists((LIST,)))
    found = json.loads(json.dumps(report.to_dict()))
    assert found["protocol"] == "ins_prw/global"
    assert found["per_query"]["0_0"]["AP_retrieval"] == pytest.approx(75)
    assert found["per_query"]["0_0"]["last_right_rank"] == 4
    assert found["per_query"]["1_0"]["first_right_rank"] is None
    assert found["skipped_queries"] == ["1_1"]
    assert found["counts"]["ground_truth_boxes"] == 3
    assert found["counts"]["largest_recall"] == 1
    precision = found["precision_recall"]["precision"]["ins_prw/global"]
    assert len(precision) == len(found["precision_recall"]["recall"]) == 101
    assert precision[0] == 0.5
    assert precision[100] == pytest.approx(0.25)


@pytest.mark.parametrize("text", ["0 # persons\n", "# persons\n0_0\n"])
def test_subsets_are_reported_apart(protocol, tmp_path, text: str) -> None:
    (tmp_path / "person.txt").write_text(text)
    subsets = read_subset(tmp_path / "person.txt", protocol)
    assert subsets == {"subset_person": {"0_0"}, "rest_person": {"1_0"}}
    lists = RegionLists((LIST,))
    metrics = judge_regions(protocol, lists, subsets).metrics()
    assert metrics["ins_prw/global/subset_person/mAP_retrieval@IoU0.5"] == pytest.approx(75)
    assert metrics["ins_prw/global/rest_person/mAP_retrieval@IoU0.5"] == 0
    assert metrics["ins_prw/global/mAP_retrieval@IoU0.5"] == pytest.approx(37.5)
    with pytest.raises(ValueError, match="none of the queries of nobody"):
        judge_regions(protocol, lists, {"nobody": frozenset({"1_1"})})


def test_an_unknown_id_of_a_subset_is_named(protocol, tmp_path) -> None:
    path = tmp_path / "person.txt"
    path.write_text("0\n17\n")
    with pytest.raises(ValueError, match=r"person\.txt:2: '17'"):
        read_subset(path, protocol)
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="holds no ID"):
        read_subset(path, protocol)


def test_the_localizer_is_judged_in_the_positive_images_by_its_own_score(protocol) -> None:
    # By localizer score on the positive images: FAR on 30 (.8), B on 30 (.7), B on 40 (.1).
    found = evaluate_localizer(protocol, RegionLists((LIST,)), boxes_per_image=20)
    assert found == {
        "ins_prw/pos/localizer/Recall@20@IoU0.5": 50.0,
        "ins_prw/pos/localizer/mAP@IoU0.5": pytest.approx(100 * (1 / 2 + 2 / 3) / 2 / 2),
    }


def test_the_localizer_has_so_many_boxes_an_image(protocol) -> None:
    found = evaluate_localizer(protocol, RegionLists((LIST,)), boxes_per_image=1)
    # Image 30 keeps FAR alone; one of two queries finds one of its two boxes, at rank 2.
    assert found["ins_prw/pos/localizer/Recall@1@IoU0.5"] == 25.0
    assert found["ins_prw/pos/localizer/mAP@IoU0.5"] == pytest.approx(100 * (1 / 2) / 2 / 2)


def test_the_localizer_needs_scores(protocol) -> None:
    one = RegionList(5, LIST.image_ids, LIST.boxes, LIST.similarities)
    with pytest.raises(ValueError, match="query 5 has no localizer scores"):
        evaluate_localizer(protocol, RegionLists((one,)))


def test_boxes_are_selected_by_the_localizer() -> None:
    def kept(**chosen: float) -> list[float]:
        one = select_regions(LIST, **chosen)  # type: ignore[arg-type]
        assert one.localizer_scores is not None
        return np.round(one.localizer_scores.astype(float), 3).tolist()

    assert kept(per_image=1) == [0.1, 0.9, 0.8, 1.0]
    assert kept(total=2) == [0.9, 1.0]
    assert kept(threshold=0.7) == [0.9, 0.8, 1.0]
    assert kept(per_image=1, total=3, threshold=0.2) == [0.9, 0.8, 1.0]
    assert kept() == [0.1, 0.9, 0.8, 0.7, 1.0]
