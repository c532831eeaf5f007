"""Localization metrics against loops and tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.evaluation import (
    GroundTruth,
    JudgedList,
    best_ious,
    box_iou,
    evaluate_rank_lists,
    localization_metrics,
    recall_iou_curve,
)
from spil_d2.structures import Query, RankList, RankLists


def test_iou_divides_by_the_union_not_by_the_enclosing_rectangle() -> None:
    # Two 2x2 boxes shifted by (1, 1): intersection 1, union 7, enclosing rectangle 9.
    value = box_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 1, 3, 3]]))[0, 0]
    assert value == pytest.approx(1 / 7)
    assert value != pytest.approx(1 / 9, abs=1e-3)


def test_iou_agrees_with_counting_pixels() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 20, (12, 2, 2)), axis=1).reshape(12, 4)
    masks = np.zeros((12, 20, 20), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    for i, a in enumerate(masks):
        for j, b in enumerate(masks):
            union = np.count_nonzero(a | b)
            expected = np.count_nonzero(a & b) / union if union else 0.0
            assert box_iou(corners[i], corners[j])[0, 0] == pytest.approx(expected)


def test_best_iou_takes_the_best_box_and_zero_without_any() -> None:
    gt = [np.array([[0, 0, 10, 10], [0, 0, 10, 20]]), np.zeros((0, 4))]
    boxes = np.array([[0, 0, 10, 20], [0, 0, 10, 10]])
    assert best_ious(boxes, gt).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="2 boxes"):
        best_ious(boxes, gt[:1])


def test_boxes_without_area_have_no_iou() -> None:
    boxes = np.array([[5, 5, 5, 5], [9, 9, 1, 1]])
    assert not box_iou(boxes, np.array([[0, 0, 10, 10], [5, 5, 5, 5]])).any()


def test_iou_of_every_pair_of_boxes_smaller_than_a_pixel() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [3, 3, 4, 4]])
    others = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 1.0]])
    expected = [[1, 1 / 2], [1 / 3, 1 / 5], [0, 0]]
    np.testing.assert_allclose(box_iou(boxes, others), expected)


@pytest.mark.parametrize("types", [("f2", "f8"), ("f8", "f2"), ("f2", "f2")])
def test_iou_of_large_boxes_in_half_precision(types: tuple[str, str]) -> None:
    """The area of these boxes is above the largest number of 16 bits."""
    one, other = (np.array([[0, 0, 1024, 1024]], kind) for kind in types)
    assert box_iou(one, other).tolist() == [[1.0]]


def test_three_queries_by_hand(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    metrics = localization_metrics(ground_truth.judge_all(rank_lists))
    # IoUs of the hits: query 100 {1, 1/2}, 200 {1/2}, 300 {1/7, 1}.
    assert metrics["mIoU_TP@128"] == pytest.approx(100 * (3 / 4 + 1 / 2 + 4 / 7) / 3)
    assert metrics["mIoU_TP_micro@128"] == pytest.approx(100 * (1.5 + 0.5 + 8 / 7) / 5)
    # Over everything returned but the own image: 3, 2 and 2 images.
    assert metrics["mIoU_all@128"] == pytest.approx(100 * (1.5 / 3 + 0.5 / 2 + 4 / 7) / 3)
    # IoU >= .5: 2 of 2, 1 of 1, 1 of 2.
    assert metrics["CorLoc50@128"] == pytest.approx(100 * (1 + 1 + 1 / 2) / 3)
    # |G| = 2, 1 and 2; four hits have IoU >= .5, two have >= .7.
    assert metrics["Recall@IoU.50"] == pytest.approx(100 * 4 / 5)
    assert metrics["Recall@IoU.70"] == pytest.approx(100 * 2 / 5)


def test_cut_and_its_denominator(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    metrics = localization_metrics(ground_truth.judge_all(rank_lists), k=1)
    # First images: hit IoU 1; wrong; hit IoU 1/7. min(1, |G|) sums to 3.
    assert metrics["mIoU_TP@1"] == pytest.approx(100 * (1 + 0 + 1 / 7) / 3)
    assert metrics["mIoU_TP_micro@1"] == pytest.approx(100 * (1 + 1 / 7) / 2)
    assert metrics["Recall@IoU.50"] == pytest.approx(100 * 1 / 3)


def test_recall_iou_curve(ground_truth: GroundTruth, rank_lists: RankLists) -> None:
    without_last = RankLists((rank_lists[100], rank_lists[200], rank_lists[300].top(1)))
    curve = recall_iou_curve(ground_truth.judge_all(without_last))
    # Hits {1, 1/2, 1/2, 1/7}: 4 of 5 relevant images are found.
    at = {round(float(t), 2): i for i, t in enumerate(curve.thresholds)}
    assert len(at) == 21
    for threshold, count in [(0.0, 4), (0.1, 4), (0.15, 3), (0.5, 3), (0.55, 1), (1.0, 1)]:
        assert curve.recall[at[threshold]] == pytest.approx(count / 5)
        assert curve.recall_of_hits[at[threshold]] == pytest.approx(count / 4)
    assert np.all(np.diff(curve.recall) <= 0)


def test_the_curve_counts_the_first_128_ranks_and_becomes_plain_numbers() -> None:
    ious = np.ones(130)
    ious[128:] = 0.0
    judged = JudgedList(1, np.arange(130), np.ones(130, bool), ious, 200)
    found = recall_iou_curve([judged]).to_dict()
    assert found == {
        "iou_thresholds": [i / 20 for i in range(21)],
        "recall": [1.0] * 21,
        "recall_of_hits": [1.0] * 21,
    }
    single = JudgedList(1, np.array([5]), np.array([True]), np.array([0.5]), 2)
    curve = recall_iou_curve([single])
    assert curve.recall_of_hits.tolist() == [1.0] * 11 + [0.0] * 10
    assert curve.recall.tolist() == [0.5] * 11 + [0.0] * 10


def test_query_without_hits_counts_as_zero() -> None:
    nothing = JudgedList(1, np.array([5]), np.array([False]), np.array([0.0]), 3)
    metrics = localization_metrics([nothing])
    assert set(metrics.values()) == {0.0}
    assert not recall_iou_curve([nothing]).recall_of_hits.any()


def test_auc_of_the_probabilities_by_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    judged = [
        JudgedList(q, np.arange(9), rng.random(9) < 0.4, np.zeros(9), 9, rng.integers(0, 5, 9) / 4)
        for q in range(3)
    ]
    hits = np.concatenate([one.hits for one in judged])
    p = np.concatenate([one.probabilities for one in judged])
    won = [(a > b) + (a == b) / 2 for a in p[hits] for b in p[~hits]]
    assert localization_metrics(judged)["AUC_p@128"] == pytest.approx(100 * np.mean(won))


def test_no_auc_without_probabilities_or_without_wrong_images() -> None:
    hits, none = np.array([True, False]), np.zeros(2)
    plain = JudgedList(1, np.arange(2), hits, none, 1)
    right = JudgedList(2, np.arange(2), np.ones(2, bool), none, 2, none)
    for judged in ([plain], [right], [plain, right]):
        assert "AUC_p@128" not in localization_metrics(judged)


def test_no_query_at_all_is_an_error() -> None:
    every = "every query lacks a relevant gallery image besides its own"
    with pytest.raises(ValueError, match=f"^no query to evaluate: {every}$"):
        localization_metrics([])
    with pytest.raises(ValueError, match="no relevant image"):
        JudgedList(1, np.zeros(0), np.zeros(0, bool), np.zeros(0), 0)
    message = "query 4: 3 images, 2 hits and 1 IoUs do not belong together"
    with pytest.raises(ValueError, match=f"^{message}$"):
        JudgedList(4, np.zeros(3), np.zeros(2, bool), np.zeros(1), 1)
    fitting = JudgedList(4, np.zeros(1), np.zeros(1, bool), np.zeros(1), 1)
    with pytest.raises(ValueError, match="^rank lists are cut at k >= 1, got k=0$"):
        localization_metrics([fitting], 0)


def _all_numbers(lists: RankLists, truth: GroundTruth) -> list[float]:
    results = evaluate_rank_lists(lists, truth)
    return [value for group in results.values() for value in group.values()]


def test_names_of_images_do_not_matter(
    dataset_dicts: list[dict],
    queries: list[Query],
    rank_lists: RankLists,
    ground_truth: GroundTruth,
) -> None:
    new_id = dict(zip(range(1, 9), [5, 8, 1, 7, 2, 3, 6, 4], strict=True))
    records = [{**record, "image_id": new_id[record["image_id"]]} for record in dataset_dicts]
    renamed_queries = [
        Query(
            q.id,
            tuple(
                type(r)(r.file_name, r.width, r.height, r.box, new_id.get(r.image_id))
                for r in q.references
            ),
            q.instance_id,
        )
        for q in queries
    ]
    renamed = RankLists(
        tuple(
            RankList(
                one.query_id,
                np.array([new_id[i] for i in one.image_ids.tolist()]),
                one.boxes,
                one.similarities,
            )
            for one in rank_lists.lists
        )
    )
    truth = GroundTruth.from_dataset(records[::-1], renamed_queries)
    assert _all_numbers(renamed, truth) == pytest.approx(_all_numbers(rank_lists, ground_truth))


def test_scale_of_similarities_does_not_matter(
    rank_lists: RankLists, ground_truth: GroundTruth
) -> None:
    doubled = RankLists(
        tuple(
            RankList(one.query_id, one.image_ids, one.boxes, 2 * one.similarities)
            for one in rank_lists.lists
        )
    )
    assert _all_numbers(doubled, ground_truth) == _all_numbers(rank_lists, ground_truth)


def test_distractors_below_all_else_change_only_the_mean_over_all_images(
    rank_lists: RankLists, ground_truth: GroundTruth
) -> None:
    longer = []
    for one in rank_lists.lists:
        ids = [i for i in (7, 8) if i not in one.image_ids]
        longer.append(
            RankList(
                one.query_id,
                np.concatenate([one.image_ids, ids]),
                np.concatenate([one.boxes, np.tile([[0, 0, 9, 9]], (len(ids), 1))]),
                np.concatenate([one.similarities, np.full(len(ids), -1.0)]),
            )
        )
    before = evaluate_rank_lists(rank_lists, ground_truth)
    after = evaluate_rank_lists(RankLists(tuple(longer)), ground_truth)
    assert after["localization"].pop("mIoU_all@128") < before["localization"].pop("mIoU_all@128")
    assert after == before
