"""The INS protocol and DBSCAN at the size of the papers, against naive loops on a part of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.ins_evaluator import judge
from ...evaluation.ins_metrics import QueryBoxes, average_precision, judge_query
from ...evaluation.ins_predictions import read_predictions
from ...evaluation.ins_protocol import (
    PRESETS,
    Protocol,
    ProtocolQuery,
    QueryTruth,
    build_protocol,
)
from .clustering import clustering
from .comparison import compare
from .own_process import measure_in_own_process
from .settings import BenchmarkSettings

_PART = 8
_DISTRACTOR_SETS = 16
_CAMERAS = 6
_WIDTH, _HEIGHT = 1920, 1080


@dataclass(frozen=True)
class SyntheticSearch:
    """Predictions for a made-up INS-PRW: many boxes that are wrong, and some that are nearly right.

    Attributes:
        images, queries: of the dataset; the defaults are those of INS-PRW with all test frames.
        boxes: for each query, over all images.
    """

    images: int = 6_112
    queries: int = 1_537
    boxes: int = 30_000

    def protocol(self) -> Protocol:
        """Its truth: an identity in seventeen boxes, three of which are queries."""
        rng = np.random.default_rng(0)
        names = [f"c{i % _CAMERAS + 1}s1_{i:06d}" for i in range(self.images)]
        truths: list[QueryTruth] = []
        while len(truths) < self.queries:
            where = rng.choice(self.images, min(17, self.images), replace=False)
            shown = [(names[i], tuple(box)) for i, box in zip(where, _boxes(rng, len(where)))]
            for i, (name, box) in enumerate(shown[:3]):
                others = tuple(shown[:i] + shown[i + 1 :])
                height = float(box[3] - box[1])
                row = len(truths)
                truths.append(QueryTruth(f"{row // 3}_{i}", row, (name,), height, others))
        ids = {name: i for i, name in enumerate(names)}
        return build_protocol(PRESETS["ins_prw"], ids, truths[: self.queries])

    def finder(self) -> Callable[[ProtocolQuery], QueryBoxes]:
        """Query -> its boxes; two thirds of what is to be found is among them."""
        rng = np.random.default_rng(1)
        pool = [
            (rng.integers(0, self.images, self.boxes), _boxes(rng, self.boxes))
            for _ in range(_DISTRACTOR_SETS)
        ]

        def find(query: ProtocolQuery) -> QueryBoxes:
            rng = np.random.default_rng((2, query.query_id))
            images, boxes = (one.copy() for one in pool[query.query_id % len(pool)])
            # Steps of 1/10,000 make ties.
            scores = rng.integers(0, 10_000, self.boxes).astype(np.float32) / 10_000
            right = np.flatnonzero(rng.random(len(query.gt_images)) < 2 / 3)[: self.boxes]
            rows = rng.choice(self.boxes, len(right), replace=False)
            images[rows] = query.gt_images[right]
            boxes[rows] = query.gt_boxes[right] + rng.normal(0, 8, (len(right), 4))
            boxes[rows, 2:] = np.maximum(boxes[rows, 2:], boxes[rows, :2])
            scores[rows] += 0.5
            return QueryBoxes(images, boxes, scores)

        return find


def evaluation(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """Judging INS-PRW's size from a file, and clustering 200,000 regions.

    Returns:
        A row of each. The ratio and "max_abs_diff" (of the queries' APs; of the labels) are those
        of a part that the naive way can do; "whole_..." says what all of it took in a process of
        its own, reading included: processor seconds and MiB.
    """
    search = SyntheticSearch(200, 12, 300) if settings.is_small else SyntheticSearch()
    return [_judging(search, settings), clustering(settings)]


def _judging(search: SyntheticSearch, settings: BenchmarkSettings) -> dict[str, Any]:
    protocol, find = search.protocol(), search.finder()
    part = protocol.queries[:_PART]
    found = [find(query) for query in part]
    counted = [protocol.counts(query) for query in part]
    plain = [
        (query, counts.tolist(), _plain_rows(one))
        for query, counts, one in zip(part, counted, found)
    ]
    measured = compare(
        f"INS protocol, {search.boxes} boxes a query",
        lambda: [_naive_ap(*one) for one in plain],
        lambda: [
            average_precision(judge_query(query, counts, one))
            for query, counts, one in zip(part, counted, found)
        ],
        lambda one, other: float(np.abs(np.subtract(one, other)).max()),
        settings,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.npz"
        measure_in_own_process(write_predictions, search, path)
        whole = measure_in_own_process(judge_file, search, path, threads=settings.threads)
        size = path.stat().st_size
    return {
        **measured.row,
        "mean_ap": float(np.mean(measured.ours)),
        "whole_queries": len(protocol.queries),
        "whole_boxes": len(protocol.queries) * search.boxes,
        "whole_seconds": whole.seconds,
        "whole_peak_mib": whole.peak_mib,
        "file_mib": size / 2**20,
    }


def write_predictions(search: SyntheticSearch, path: Path) -> None:
    """All of a search's predictions in one .npz file."""
    protocol, find = search.protocol(), search.finder()
    count = len(protocol.queries) * search.boxes
    arrays = {
        "query": np.repeat(np.arange(len(protocol.queries), dtype=np.int32), search.boxes),
        "image": np.empty(count, np.int32),
        "bbox": np.empty((count, 4), np.float32),
        "score": np.empty(count, np.float32),
    }
    for i, query in enumerate(protocol.queries):
        rows = slice(i * search.boxes, (i + 1) * search.boxes)
        arrays["image"][rows], arrays["bbox"][rows], arrays["score"][rows] = find(query)
    names = {
        "query_names": np.array([query.name for query in protocol.queries]),
        "image_names": np.array(protocol.image_names),
    }
    np.savez(path, **arrays, **names)


def judge_file(search: SyntheticSearch, path: Path) -> float:
    """mAP in percent of a file of predictions, read and judged."""
    protocol = search.protocol()
    predictions = read_predictions(path, protocol)
    report = judge(protocol, lambda query: predictions.of(query.name))
    return report.metrics()[f"{protocol.key}/mAP_retrieval@IoU0.5"]


def _plain_rows(found: QueryBoxes) -> list[tuple[int, list[float], float]]:
    return list(zip(found.images.tolist(), found.boxes.tolist(), found.scores.tolist()))


def _naive_ap(
    query: ProtocolQuery, counts: list[bool], rows: list[tuple[int, list[float], float]]
) -> float:
    """Walk down the sorted list, and look at every box of the truth for every box."""
    truth = list(zip(query.gt_images.tolist(), query.gt_boxes.tolist()))
    kept = [row for row in rows if counts[row[0]]]
    kept.sort(key=lambda row: (-row[2], row[0]))
    consumed: set[int] = set()
    total = 0.0
    for rank, (image, box, _) in enumerate(kept, start=1):
        best, best_iou = -1, 0.0
        for i, (place, other) in enumerate(truth):
            if place == image and (iou := _iou(box, other)) > best_iou:
                best, best_iou = i, iou
        if best_iou > 0.5 and best not in consumed:
            consumed.add(best)
            total += len(consumed) / rank
    return total / len(truth)


def _iou(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float32 XYXY_ABS, as tall as persons."""
    corner = rng.uniform(0, 1, (count, 2)) * (_WIDTH - 250, _HEIGHT - 500)
    size = rng.uniform((20, 60), (200, 450), (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)
