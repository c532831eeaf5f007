"""The evaluator of instance search on lists that are judged by hand."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.evaluation import print_csv_format
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm

from spil_d2.evaluation import (
    GroundTruth,
    InstanceSearchEvaluator,
    evaluate_rank_lists,
    localization_metrics,
    recall_iou_curve,
    search_metrics,
)
from spil_d2.structures import RankList, RankLists

from .conftest import make_list


def _instances(*rows: tuple[tuple[float, ...], float]) -> Instances:
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor([row[0] for row in rows]).reshape(-1, 4))
    instances.scores = torch.tensor([row[1] for row in rows])
    return instances


def _pairs(rank_lists: RankLists) -> tuple[list[dict], list[dict]]:
    """The answers of a model whose best box of each image is the rank list's."""
    inputs, outputs = [], []
    for one in rank_lists.lists:
        for i, box in enumerate(one.boxes.tolist()):
            inputs.append(
                {
                    "query_id": one.query_id,
                    "image_id": int(one.image_ids[i]),
                    "rank": i,
                    "similarity": float(one.similarities[i]),
                }
            )
            worse = ((90.0, 90.0, 99.0, 99.0), 0.2)
            outputs.append({"instances": _instances(worse, (tuple(box), 0.9))})
    return inputs, outputs


def _with_probabilities(rank_lists: RankLists) -> RankLists:
    """The lists that `_pairs` answers, with the probability of its answers."""
    return RankLists(
        tuple(
            replace(one, probabilities=np.full(len(one), 0.9, np.float32))
            for one in rank_lists.lists
        )
    )


def test_search_numbers_by_hand(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    search = evaluate_rank_lists(rank_lists, ground_truth)["search"]
    # Hits at ranks {0, 2} of |G| 2, {1} of 1, {0, 1} of 2.
    assert search["AP_std@128"] == pytest.approx(100 * (5 / 6 + 1 / 2 + 1) / 3)
    # lab cuts at |G|: {0}, {}, {0, 1}.
    assert search["AP_lab@128"] == pytest.approx(100 * (1 / 2 + 0 + 1) / 3)
    # (1 + 1)/2 and (1/2 + 2/3)/2 over 2; (0 + 1/2)/2; 1.
    assert search["AP_trapezoid_full"] == pytest.approx(100 * (19 / 24 + 1 / 4 + 1) / 3)
    assert search["P@5"] == pytest.approx(100 * (2 + 1 + 2) / 15)
    assert search["P@10"] == pytest.approx(100 * (2 + 1 + 2) / 30)


def test_the_cut_reaches_all_metrics_and_is_128_unless_another_is_given(
    ground_truth: GroundTruth, rank_lists: RankLists
) -> None:
    turned = RankLists(tuple(_turned(one) for one in rank_lists.lists))
    results = evaluate_rank_lists(rank_lists, ground_truth, 1, reranked=turned)
    assert list(results) == ["localization", "search", "search_reranked"]
    # First images: hit, wrong, hit; from the end of each list: hit, hit, hit.
    assert results["search"]["AP_std@1"] == pytest.approx(100 * 2 / 3)
    assert results["search_reranked"]["AP_std@1"] == pytest.approx(100)
    judged = ground_truth.judge_all(rank_lists)
    assert results["localization"] == localization_metrics(judged, 1)
    assert search_metrics(judged).keys() == search_metrics(judged, 128).keys()
    assert "search_reranked" not in evaluate_rank_lists(rank_lists, ground_truth)


def _turned(one: RankList) -> RankList:
    return replace(one, image_ids=one.image_ids[::-1], boxes=one.boxes[::-1])


def test_lists_that_lack_gallery_images_are_told(
    ground_truth: GroundTruth, caplog: pytest.LogCaptureFixture
) -> None:
    """A query's own image (here 1) may be left out."""
    box = (0.0, 0.0, 9.0, 9.0)

    def told(*image_ids: list[int]) -> list[str]:
        caplog.clear()
        rows = zip((100, 200, 300), image_ids, strict=True)
        lists = RankLists(tuple(make_list(q, [(i, box) for i in ids]) for q, ids in rows))
        with caplog.at_level(logging.INFO, logger="spil_d2"):
            evaluate_rank_lists(lists, ground_truth)
        return caplog.messages

    every = list(range(1, 9))
    assert told(every[1:], every, every) == told(every, every, every) == []
    rest = "do not hold the whole gallery of 8 images; AP_trapezoid_full is a lower bound there"
    assert told(every[1:], every[1:], every) == [f"1 of 3 rank lists {rest}"]
    assert told(every[2:], every[1:], every) == [f"2 of 3 rank lists {rest}"]


def test_query_without_results_counts_as_zero(
    ground_truth: GroundTruth, rank_lists: RankLists
) -> None:
    full = evaluate_rank_lists(rank_lists, ground_truth)
    less = evaluate_rank_lists(RankLists(rank_lists.lists[:2]), ground_truth)
    # Query 300 had AP 1 and mIoU 4/7.
    assert full["search"]["AP_std@128"] - less["search"]["AP_std@128"] == pytest.approx(100 / 3)
    lost = full["localization"]["mIoU_TP@128"] - less["localization"]["mIoU_TP@128"]
    assert lost == pytest.approx(100 * 4 / 7 / 3)


def test_evaluator_gives_the_numbers_of_the_lists(
    ground_truth: GroundTruth, rank_lists: RankLists
) -> None:
    inputs, outputs = _pairs(rank_lists)
    evaluator = InstanceSearchEvaluator(ground_truth)
    evaluator.reset()
    # Pairs come in any order and in any batches.
    for i in reversed(range(len(inputs))):
        evaluator.process(inputs[i : i + 1], outputs[i : i + 1])
    results = evaluator.evaluate()
    assert results == evaluate_rank_lists(_with_probabilities(rank_lists), ground_truth)
    print_csv_format(results)
    evaluator.reset()
    with pytest.raises(ValueError, match="strict|shorter|longer"):
        evaluator.process(inputs, outputs[:1])


def test_image_without_detection_keeps_its_rank(
    ground_truth: GroundTruth, rank_lists: RankLists, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, outputs = _pairs(rank_lists)
    outputs[1]["instances"] = _instances()  # image 2 of query 100, the hit with IoU 1
    evaluator = InstanceSearchEvaluator(ground_truth)
    evaluator.process(inputs, outputs)
    with caplog.at_level(logging.WARNING):
        results = evaluator.evaluate()
    expected = evaluate_rank_lists(rank_lists, ground_truth)
    assert results["search"] == expected["search"]
    assert results["localization"]["mIoU_TP@128"] == pytest.approx(
        expected["localization"]["mIoU_TP@128"] - 100 * (1 / 2) / 3
    )
    assert caplog.messages == ["1 of 8 images have no detection: IoU 0"]


def test_refined_similarities_are_reported_beside(
    ground_truth: GroundTruth, rank_lists: RankLists
) -> None:
    inputs, outputs = _pairs(rank_lists)
    for given, answer in zip(inputs, outputs, strict=True):
        answer["similarity"] = 0.1 if given["image_id"] in (7, 8) else 0.8
    evaluator = InstanceSearchEvaluator(ground_truth)
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    # Now the distractors are last in every list.
    assert results["search_reranked"]["AP_std@128"] == pytest.approx(100)
    assert results["search"] == evaluate_rank_lists(rank_lists, ground_truth)["search"]
    del outputs[0]["similarity"]
    evaluator.reset()
    evaluator.process(inputs, outputs)
    message = "7 of 8 outputs carry a refined 'similarity'; re-ranking needs all of them or none"
    with pytest.raises(ValueError, match=f"^{message}$"):
        evaluator.evaluate()


def test_equal_similarities_stay_in_the_order_of_the_search(
    ground_truth: GroundTruth, rank_lists: RankLists
) -> None:
    inputs, outputs = _pairs(rank_lists)
    for given in inputs:
        given |= {"similarity": 0.5, "rank": -given["image_id"]}
    evaluator = InstanceSearchEvaluator(ground_truth)
    evaluator.process(inputs, outputs)
    # By falling image ids: 7, 3, 2 (1 is the query's own); 8, 4; 6, 5.
    expected = (1 / 2 + 2 / 3) / 2, 1 / 2, 1
    found = evaluator.evaluate()["search"]["AP_std@128"]
    assert found == pytest.approx(100 * sum(expected) / 3)


def test_the_lists_that_are_judged_have_the_types_of_rank_lists(
    ground_truth: GroundTruth, rank_lists: RankLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    judge_all = GroundTruth.judge_all
    monkeypatch.setattr(
        GroundTruth, "judge_all", lambda self, lists: seen.append(lists) or judge_all(self, lists)
    )
    inputs, outputs = _pairs(rank_lists)
    outputs[1]["instances"] = _instances()
    evaluator = InstanceSearchEvaluator(ground_truth)
    evaluator.process(inputs, outputs)
    evaluator.evaluate()
    one = seen[0][100]
    assert one.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 0, 0], [0, 0, 10, 10], [20, 30, 30, 40]]
    assert one.probabilities.tolist() == np.float32([0.9, 0, 0.9, 0.9]).tolist()
    arrays = (one.image_ids, one.boxes, one.similarities, one.probabilities)
    assert [array.dtype for array in arrays] == [np.int64, *[np.float32] * 3]


def test_the_cut_reaches_baselines_and_curves(
    ground_truth: GroundTruth, rank_lists: RankLists, tmp_path: Path
) -> None:
    inputs, outputs = _pairs(rank_lists)
    base = RankLists(tuple(_turned(one) for one in rank_lists.lists))
    arguments = {"k": 1, "baselines": {"DASR": base}, "output_dir": tmp_path}
    evaluator = InstanceSearchEvaluator(ground_truth, **arguments)
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["counts"]["queries_without_hit@1"] == 1
    for label, lists in (("DASR", base), ("localizer", _with_probabilities(rank_lists))):
        judged = ground_truth.judge_all(lists)
        name = "localization" + "_DASR" * (label == "DASR")
        assert results[name] == localization_metrics(judged, 1)
        assert stored["curves"][label] == recall_iou_curve(judged, 1).to_dict()


def test_files(
    ground_truth: GroundTruth,
    rank_lists: RankLists,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plotted = {}
    inputs, outputs = _pairs(rank_lists)
    evaluator = InstanceSearchEvaluator(
        ground_truth,
        label="stage 3",
        baselines={"DASR": rank_lists.top(1)},
        output_dir=tmp_path / "run/inference",
        plot_curves=lambda curves, path: plotted.update({path.name: list(curves)}),
    )
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    with caplog.at_level(logging.INFO, logger="spil_d2"):
        assert evaluator.evaluate() == results, "over the files of the first time"
    text = (tmp_path / "run/inference/results.json").read_text()
    stored = json.loads(text)
    assert text == json.dumps(stored, indent=1) + "\n"
    assert (stored["unit"], stored["k"], stored["metrics"]) == ("percent", 128, results)
    assert f"Counts: {stored['counts']}" in caplog.messages
    assert f"Results are in {tmp_path / 'run/inference'}" in caplog.messages
    assert any(one.startswith("Evaluation of stage 3, in percent") for one in caplog.messages)
    assert "localization_DASR" in results
    assert stored["counts"] == {
        "queries": 3,
        "queries_skipped_without_relevant_image": 1,
        "queries_without_results": 0,
        "queries_without_hit@128": 0,
    }
    # All five relevant images are found; the baseline finds one, in the first rank of query 300,
    # for the first rank of query 100 is its own image.
    assert stored["curves"]["stage 3"]["recall"][0] == 1.0
    assert stored["curves"]["DASR"]["recall"][0] == pytest.approx(1 / 5)
    assert plotted == {"recall_iou.png": ["DASR", "stage 3"]}
    lists = RankLists.load(tmp_path / "run/inference/rank_lists.npz")
    assert lists[100].image_ids.tolist() == [1, 2, 7, 3]
    assert lists[100].probabilities.tolist() == pytest.approx([0.9] * 4)
    assert len(json.loads((tmp_path / "run/inference/coco_results.json").read_text())) == 8


def test_other_ranks_return_nothing(
    ground_truth: GroundTruth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert InstanceSearchEvaluator(ground_truth).evaluate() == {}


def test_shares_of_all_ranks_are_gathered(
    ground_truth: GroundTruth, rank_lists: RankLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, outputs = _pairs(rank_lists)
    other = InstanceSearchEvaluator(ground_truth)
    other.process(inputs[::2], outputs[::2])
    evaluator = InstanceSearchEvaluator(ground_truth)
    evaluator.process(inputs[1::2], outputs[1::2])
    monkeypatch.setattr(comm, "gather", lambda mine, dst: [[mine, other._entries], []][dst])
    expected = evaluate_rank_lists(_with_probabilities(rank_lists), ground_truth)
    assert evaluator.evaluate() == expected


def test_the_main_process_alone_waits_for_nobody(
    ground_truth: GroundTruth, rank_lists: RankLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the other processes have left")

    inputs, outputs = _pairs(rank_lists)
    evaluator = InstanceSearchEvaluator(ground_truth, label="run", distributed=False)
    evaluator.reset()
    evaluator.process(inputs, outputs)
    for name in ("synchronize", "gather"):
        monkeypatch.setattr(comm, name, fail)
    assert evaluator.evaluate()


def test_label_clash_is_refused(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    with pytest.raises(ValueError, match="'DASR'"):
        InstanceSearchEvaluator(ground_truth, label="DASR", baselines={"DASR": rank_lists})
