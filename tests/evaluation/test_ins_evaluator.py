"""Whole searches: reports, subsets, region lists and the localizer alone."""

from __future__ import annotations

import json
from dataclasses import replace

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
    assert caplog.messages == [
        "ins_prw/global: 2 of 2 queries have no box in the images that count, and AP 0; the first "
        "is 0_0"
    ]


def test_a_list_of_a_skipped_query_is_no_matter(protocol) -> None:
    lists = RegionLists((LIST, make_list(7, [(20, B, 0.5)])))
    assert evaluate_regions(protocol, lists) == evaluate_regions(protocol, RegionLists((LIST,)))


def test_unknown_ids_are_errors(protocol) -> None:
    with pytest.raises(ValueError, match="first of query 99"):
        evaluate_regions(protocol, RegionLists((make_list(99, []),)))
    unknown = "image 77, which is none of the 5 images of the gallery; was it made with another"
    with pytest.raises(ValueError, match=rf"{unknown} dataset\?$"):
        evaluate_regions(protocol, RegionLists((make_list(5, [(77, B, 0.5)]),)))


def test_a_report_becomes_json(protocol) -> None:
    report = judge_regions(protocol, RegionLists((LIST,)))
    found = json.loads(json.dumps(report.to_dict()))
    assert (found["protocol"], found["unit"]) == ("ins_prw/global", "percent")
    assert found["metrics"] == report.metrics()
    # By hand: right at the ranks 1 and 4 of 4; the envelope of 1 and 1/2 is itself.
    assert found["per_query"]["0_0"] == {
        "AP_retrieval": pytest.approx(75),
        "AP_delg": pytest.approx(100 * (1 + (1 / 3 + 1 / 2) / 2) / 2),
        "AP_voc": pytest.approx(75),
        "recall": 100,
        "ground_truth_boxes": 2,
        "ranked_boxes": 4,
        "first_right_rank": 1,
        "last_right_rank": 4,
    }
    assert found["per_query"]["1_0"] == {
        **dict.fromkeys(("AP_retrieval", "AP_delg", "AP_voc", "recall"), 0.0),
        "ground_truth_boxes": 1,
        "ranked_boxes": 0,
        "first_right_rank": None,
        "last_right_rank": None,
    }
    assert found["skipped_queries"] == ["1_1"]
    assert found["counts"] == {
        "queries": 2,
        "queries_skipped": 1,
        "queries_without_boxes": 1,
        "images": 5,
        "ground_truth_boxes": 3,
        "ranked_boxes": 4,
        "largest_recall": 1,
        "mean_rank_of_last_right_box": 4,
    }
    precision = found["precision_recall"]["precision"]["ins_prw/global"]
    assert len(precision) == len(found["precision_recall"]["recall"]) == 101
    assert precision[0] == 0.5
    assert precision[100] == pytest.approx(0.25)


def test_counts_of_three_right_boxes_and_of_none(protocol) -> None:
    rows = [(40, B, 0.1), (40, FAR, 0.1), (30, B, 0.1), (20, B, 0.1)]
    rules = replace(PRESETS["ins_prw"], separate_cameras=False)
    truth = QueryTruth("0_0", 5, ("c1q",), 100.0, (("c2a", B), ("c3b", B), ("c1c", B)))
    three = build_protocol(rules, IMAGE_IDS, [truth])
    found = judge_regions(three, RegionLists((make_list(5, rows),))).to_dict()
    assert found["per_query"]["0_0"]["first_right_rank"] == 1
    assert found["per_query"]["0_0"]["last_right_rank"] == 4
    assert found["counts"]["mean_rank_of_last_right_box"] == 4
    counts = judge_regions(protocol, RegionLists(())).to_dict()["counts"]
    assert counts["queries_without_boxes"] == 2
    assert counts["mean_rank_of_last_right_box"] == 0


def test_the_threshold_of_the_rules_is_that_of_boxes_and_names() -> None:
    """A box with an IoU of .6."""
    lists = RegionLists((make_list(5, [(40, (0.0, 0.0, 60.0, 100.0), 0.5)]),))
    truth = QueryTruth("0_0", 5, ("c1q",), 100.0, (("c2a", B),))
    for threshold, share in ((0.55, 100), (0.65, 0)):
        rules = replace(PRESETS["ins_prw"], iou_threshold=threshold)
        found = evaluate_regions(build_protocol(rules, IMAGE_IDS, [truth]), lists)
        assert found[f"ins_prw/global/mAP_retrieval@IoU{threshold}"] == share
        assert all(key.endswith(f"@IoU{threshold}") for key in found)


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


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("x_1\n", {"x_1_0", "x_1_1"}),
        ("x_2 y_0\n", {"x_2_0", "y_0"}),
        ("y\nx_1_1", {"y_0", "x_1_1"}),
    ],
)
def test_an_id_is_all_before_the_last_underscore(tmp_path, text: str, chosen: set[str]) -> None:
    names = ("x_1_0", "x_1_1", "x_2_0", "y_0")
    truths = [QueryTruth(name, i, ("c1q",), 99.0, (("c2d", B),)) for i, name in enumerate(names)]
    protocol = build_protocol(PRESETS["ins_prw"], IMAGE_IDS, truths)
    (tmp_path / "ids.txt").write_text(text)
    subsets = read_subset(tmp_path / "ids.txt", protocol)
    assert subsets == {"subset_ids": chosen, "rest_ids": set(names) - chosen}


def test_an_unknown_id_of_a_subset_is_named(protocol, tmp_path) -> None:
    path = tmp_path / "person.txt"
    path.write_text("0\n17\n")
    with pytest.raises(ValueError, match=r"person\.txt:2: '17'"):
        read_subset(path, protocol)
    with pytest.raises(ValueError, match=r"none\.txt: the list of ids cannot be read"):
        read_subset(tmp_path / "none.txt", protocol)
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="holds no ID"):
        read_subset(path, protocol)


def test_the_localizer_is_judged_in_the_positive_images_by_its_own_score(protocol) -> None:
    # By localizer score on the positive images: FAR on 30 (.8), B on 30 (.7), B on 40 (.1).
    found = evaluate_localizer(protocol, RegionLists((LIST,)))
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


def test_ties_of_the_localizer_are_in_the_order_of_the_list(protocol) -> None:
    """Too many boxes for a sort that keeps ties by chance."""
    rng = np.random.default_rng(0)
    rows = [(40, FAR, float(rng.integers(0, 3))) for _ in range(200)]
    last = max(i for i, row in enumerate(rows) if row[2] == 1)
    rows[last] = (40, B, 1.0)
    ranks = sorted(range(200), key=lambda i: -rows[i][2])
    one = make_list(5, rows)
    found = evaluate_localizer(protocol, RegionLists((one,)), boxes_per_image=200)
    expected = 1 / (ranks.index(last) + 1) / 2 / 2
    assert found["ins_prw/pos/localizer/mAP@IoU0.5"] == pytest.approx(100 * expected)
    for total in (20, 90, 150):
        kept = select_regions(one, total=total)
        assert kept.similarities.tolist() == [-float(i) for i in sorted(ranks[:total])]
