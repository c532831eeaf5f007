"""The INS metric: the worked examples of the official code, and random lists against loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from spil_d2.evaluation.ins_metrics import (
    CMC_RANKS,
    QueryBoxes,
    QueryOutcome,
    average_precision,
    average_precision_delg,
    average_precision_voc,
    ins_metrics,
    judge_query,
    precision_recall_curve,
)
from spil_d2.evaluation.ins_protocol import PRESETS, Protocol, QueryTruth, build_protocol

from . import ins_reference as reference

B = (0, 0, 100, 100)
ELSEWHERE = (500, 500, 600, 600)
IMAGES = [f"c{c}/i{i}" for c in (1, 2, 3) for i in range(40)]
TWO = (("c2/i1", B), ("c3/i1", B))
THREE = (("c1/i1", B), *TWO)
Row = tuple[str, Sequence[float], float]


def make_protocol(
    positives: Sequence[tuple[str, Sequence[float]]] = TWO,
    gallery: tuple[str, ...] | None = None,
    **rules: object,
) -> Protocol:
    """One query on c1/i0 of camera 1."""
    truth = QueryTruth("0_0", 7, ("c1/i0",), 100.0, tuple(positives), gallery)
    if gallery is not None:
        rules["gallery_range"] = "local"
    chosen = replace(PRESETS["ins_prw"], **rules)  # type: ignore[arg-type]
    return build_protocol(chosen, {name: i for i, name in enumerate(IMAGES)}, [truth])


def judge_rows(protocol: Protocol, rows: Sequence[Row]) -> QueryOutcome:
    query = protocol.queries[0]
    found = QueryBoxes(
        np.array([protocol.image_index[row[0]] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
    )
    return judge_query(query, protocol.counts(query), found, protocol.rules.iou_threshold)


# The rows of the table of worked examples: positives, rules, list, and retrieval AP, delg, voc,
# rank-1 as the official code gives them.
G_ROWS = [
    ("c1/i0", B, 0.99),
    ("c1/i1", B, 0.95),
    ("c1/i2", B, 0.93),
    ("c2/i1", B, 0.9),
    ("c3/i1", B, 0.8),
]
LOCAL = ("c2/i1", "c3/i1", "c2/i5")
J_ROWS = [("c1/i0", B, 0.95), ("c2/i1", B, 0.9), ("c3/i1", B, 0.8)]
EXAMPLES: dict[str, tuple[dict, list[Row], tuple]] = {
    "A": (
        {},
        [("c2/i1", B, 0.9), ("c2/i2", B, 0.8), ("c3/i1", B, 0.7)],
        (5 / 6, 19 / 24, 5 / 6, 1),
    ),
    "B": ({}, [("c2/i1", B, 0.9), ("c2/i2", B, 0.8)], (0.5, 0.5, 0.5, 1)),
    "C": ({"positives": TWO[:1]}, [("c2/i1", (0, 0, 200, 100), 0.9)], (0, 0, 0, 0)),
    "D": ({"positives": TWO[:1]}, [("c2/i1", (0, 0, 199, 100), 0.9)], (1, 1, 1, 1)),
    "E": (
        {"positives": TWO[:1]},
        [("c2/i1", (50, 50, 150, 150), 0.9), ("c2/i1", B, 0.8)],
        (0.5, 0.25, 0.5, 0),
    ),
    "F": (
        {},
        [("c2/i1", B, 0.9), ("c2/i1", (0, 0, 99, 100), 0.8), ("c3/i1", B, 0.7)],
        (5 / 6, 19 / 24, 5 / 6, 1),
    ),
    "G": ({"positives": THREE}, G_ROWS, (7 / 12, 5 / 12, 2 / 3, 0)),
    "H": (
        {"positives": THREE, "separate_cameras": False},
        G_ROWS,
        ((1 + 2 / 3 + 3 / 4) / 3, 0.7639, 5 / 6, 1),
    ),
    "I": (
        {"gallery": LOCAL},
        [("c2/i7", B, 0.95), ("c2/i5", B, 0.9), ("c2/i1", B, 0.8), ("c3/i1", B, 0.7)],
        (7 / 12, 5 / 12, 2 / 3, 0),
    ),
    "J as the official code": (
        {"gallery": (*LOCAL, "c1/i0"), "keep_listed_query_image": True},
        J_ROWS,
        (7 / 12, 5 / 12, 2 / 3, 0),
    ),
    "J as we count it": ({"gallery": (*LOCAL, "c1/i0")}, J_ROWS, (1, 1, 1, 1)),
    "L": ({}, [("c1/i0", B, 0.9)], (0, 0, 0, 0)),
    # The official code keeps one of the two boxes and gives .25; each can be found here.
    "M": (
        {"positives": (("c2/i1", B), ("c2/i1", ELSEWHERE))},
        [("c2/i1", B, 0.9), ("c2/i1", ELSEWHERE, 0.8)],
        (1, 1, 1, 1),
    ),
    "N": (
        {"positives": TWO[:1]},
        [*((f"c3/i{i}", B, 0.9 - i / 100) for i in range(24)), ("c2/i1", B, 0.1)],
        (0.04, 0.02, 0.04, 0),
    ),
}


@pytest.mark.parametrize("row", EXAMPLES)
def test_a_worked_example(row: str) -> None:
    arguments, rows, (retrieval, delg, voc, rank_1) = EXAMPLES[row]
    outcome = judge_rows(make_protocol(**arguments), rows)
    assert average_precision(outcome) == pytest.approx(retrieval, abs=1e-12)
    assert average_precision_delg(outcome) == pytest.approx(delg, abs=5e-5)
    assert average_precision_voc(outcome) == pytest.approx(voc, abs=1e-12)
    assert float(outcome.hits(1) > 0) == rank_1


def test_example_k_only_a_positive_of_the_querys_camera_skips_the_query() -> None:
    protocol = make_protocol(THREE[:1])
    assert protocol.queries == ()
    assert protocol.skipped == {"0_0": 7}


def test_example_n_is_not_among_the_first_20() -> None:
    arguments, rows, _ = EXAMPLES["N"]
    outcome = judge_rows(make_protocol(**arguments), rows)
    assert outcome.tp_ranks.tolist() == [25]
    assert outcome.hits(20) == 0
    assert outcome.recall == 1


def test_a_list_without_boxes_is_zero() -> None:
    outcome = judge_rows(make_protocol(), [])
    metrics = ins_metrics([outcome], "ins_prw/global")
    assert outcome.num_boxes == 0
    assert set(metrics.values()) == {0.0}


def test_ties_are_in_the_order_of_image_names_then_of_the_file() -> None:
    protocol = make_protocol((("c2/i1", B),))
    rows = [("c3/i0", B, 0.5), ("c2/i1", ELSEWHERE, 0.5), ("c2/i1", B, 0.5), ("c1/i5", B, 0.5)]
    # c1/i5, then the two of c2/i1 as given, then c3/i0.
    assert judge_rows(protocol, rows).tp_ranks.tolist() == [3]
    rows[1], rows[2] = rows[2], rows[1]
    assert judge_rows(protocol, rows).tp_ranks.tolist() == [2]


def test_a_box_as_near_to_two_boxes_of_the_truth_takes_the_first() -> None:
    protocol = make_protocol((("c2/i1", B), ("c2/i1", (20, 0, 120, 100))))
    rows = [("c2/i1", (10, 0, 110, 100), 0.9), ("c2/i1", (20, 0, 120, 100), 0.8)]
    outcome = judge_rows(protocol, rows)
    assert outcome.tp_ranks.tolist() == [1, 2]
    assert outcome.tp_ranks.dtype == np.int64


@pytest.mark.parametrize(
    ("truth", "box", "is_right"),
    [
        # 90 pixels away both ways: 90 x 90 is no overlap.
        (B, (190, 190, 290, 290), False),
        ((0, 0, 1, 1), (5, 5, 6, 6), False),
        ((0, 0, 1, 1), (0.5, 0, 1.5, 1), False),
        ((0, 0, 1, 1), (0.25, 0, 1.25, 1), True),
        ((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.5), True),
        ((5, 5, 5, 5), (5, 5, 5, 5), False),
    ],
)
def test_what_overlaps(truth: Sequence[float], box: Sequence[float], is_right: bool) -> None:
    outcome = judge_rows(make_protocol((("c2/i1", truth),)), [("c2/i1", box, 0.9)])
    assert outcome.tp_ranks.tolist() == [1] * is_right


def test_precision_stops_counting_where_everything_is_found() -> None:
    outcome = QueryOutcome("q", 2, 30, np.array([1, 3]))
    assert outcome.precision(1) == 1
    assert outcome.precision(5) == outcome.precision(20) == pytest.approx(2 / 3)
    missed = QueryOutcome("q", 3, 2, np.array([1, 2]))
    assert missed.precision(5) == pytest.approx(2 / 5)


def random_rows(rng: np.random.Generator, count: int) -> list[Row]:
    """Few images, few scores, boxes near the truth, boxes without area."""
    rows = []
    for _ in range(count):
        image = IMAGES[rng.integers(0, 3) * 40 + rng.integers(0, 5)]
        x, y = rng.integers(0, 40, 2)
        w, h = rng.choice([0, 60, 100, 140], 2)
        rows.append((image, (x, y, x + w, y + h), float(rng.integers(0, 6)) / 4))
    return rows


def random_case(seed: int) -> tuple[Protocol, list[Row], dict, set[str], set[str] | None]:
    rng = np.random.default_rng(seed)
    images = [name for name in IMAGES if int(name[4:]) < 5 and name != "c1/i0"]
    chosen = rng.permutation(images)[: rng.integers(1, 9)].tolist()
    positives = []
    for name in chosen:
        for _ in range(rng.integers(1, 3)):
            x, y = rng.integers(0, 40, 2)
            positives.append((name, (x, y, x + 100, y + 100)))
    gallery = None
    if seed % 3 == 0:
        gallery = tuple(rng.permutation(images)[:8].tolist())
    protocol = make_protocol(positives, gallery, separate_cameras=bool(seed % 2))
    searched = None if gallery is None else set(gallery)
    ignored = {"c1/i0"} | {n for n, _ in positives if seed % 2 and n.startswith("c1")}
    truth: dict[str, list] = {}
    for name, box in positives:
        if name not in ignored and (searched is None or name in searched):
            truth.setdefault(name, []).append(box)
    return protocol, random_rows(rng, int(rng.integers(0, 60))), truth, ignored, searched


@pytest.mark.parametrize("seed", range(60))
def test_random_lists_agree_with_loops(seed: int) -> None:
    protocol, rows, truth, ignored, searched = random_case(seed)
    num_gt = sum(len(boxes) for boxes in truth.values())
    if num_gt == 0:
        assert protocol.queries == ()
        return
    hits = reference.walk(rows, truth, ignored, searched)
    outcome = judge_rows(protocol, rows)
    assert outcome.num_gt == num_gt
    assert outcome.num_boxes == len(hits)
    assert outcome.tp_ranks.tolist() == [i + 1 for i, hit in enumerate(hits) if hit]
    metrics = ins_metrics([outcome], "p")
    expected = {
        "mAP_retrieval": reference.ap_retrieval(hits, num_gt),
        "mAP_delg": reference.ap_delg(hits, num_gt),
        "mAP_voc": reference.ap_voc(hits, num_gt),
        "recall": sum(hits) / num_gt,
    }
    for k in CMC_RANKS:
        expected[f"rank-{k}"] = float(any(hits[:k]))
        expected[f"precision-{k}"] = reference.precision_at(hits, num_gt, k)
        expected[f"recall-{k}"] = sum(hits[:k]) / num_gt
    assert metrics.keys() == {f"p/{name}@IoU0.5" for name in expected}
    for name, value in expected.items():
        assert metrics[f"p/{name}@IoU0.5"] == pytest.approx(100 * value, abs=1e-9), name
    assert precision_recall_curve([outcome]) == pytest.approx(reference.curve(hits, num_gt))


@pytest.mark.parametrize("seed", [s for s in range(0, 40, 3) if random_case(s)[0].queries])
def test_what_does_not_matter_changes_nothing(seed: int) -> None:
    protocol, rows, _, _, _ = random_case(seed)
    rng = np.random.default_rng(seed)
    scores = rng.permutation(len(rows)) / max(len(rows), 1)
    rows = [(image, box, float(score)) for (image, box, _), score in zip(rows, scores)]
    expected = judge_rows(protocol, rows).tp_ranks.tolist()
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    assert judge_rows(protocol, shuffled).tp_ranks.tolist() == expected
    doubled = [(image, box, 2 * score) for image, box, score in rows]
    assert judge_rows(protocol, doubled).tp_ranks.tolist() == expected
    below = [("c3/i30", B, -1.0 - i) for i in range(5)]
    more = judge_rows(protocol, [*below, *rows])
    assert more.tp_ranks.tolist() == expected


def test_the_order_of_the_gallery_does_not_matter() -> None:
    truth = QueryTruth("0_0", 7, ("c1/i0",), 100.0, TWO)
    rows = random_rows(np.random.default_rng(5), 50)
    ranks = []
    for seed in range(3):
        names = np.random.default_rng(seed).permutation(IMAGES).tolist()
        ids = {name: i for i, name in enumerate(names)}
        protocol = build_protocol(PRESETS["ins_prw"], ids, [truth])
        ranks.append(judge_rows(protocol, rows).tp_ranks.tolist())
    assert ranks[0] == ranks[1] == ranks[2]


def test_large_boxes_match_in_half_precision_too() -> None:
    large = (0.0, 0.0, 1024.0, 1024.0)
    protocol = make_protocol((("c2/i1", large),))
    found = QueryBoxes(
        np.array([protocol.image_index["c2/i1"]]),
        np.array([large], np.float16),
        np.array([0.5], np.float16),
    )
    query = protocol.queries[0]
    assert judge_query(query, protocol.counts(query), found).tp_ranks.tolist() == [1]


def test_no_query_is_an_error() -> None:
    with pytest.raises(ValueError, match="ins_prw/global: no query"):
        ins_metrics([], "ins_prw/global")
