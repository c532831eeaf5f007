"""Detectron2 evaluator of instance search with localization."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from ..structures import RankList, RankLists
from .ground_truth import GroundTruth
from .localization import JudgedList, RecallIoUCurve, localization_metrics, recall_iou_curve
from .ranking import AP_VARIANTS, precision_at
from .tables import log_metrics_table

logger = logging.getLogger(__name__)

Results = OrderedDict[str, dict[str, float]]
CurvePlotter = Callable[[Mapping[str, RecallIoUCurve], Path], None]


@dataclass(frozen=True)
class _Entry:
    """One (query, gallery image) pair as the model answered it."""

    query_id: int
    image_id: int
    rank: int
    similarity: float
    box: tuple[float, float, float, float] | None
    probability: float
    refined_similarity: float | None


def search_metrics(judged: Sequence[JudgedList], k: int = 128) -> dict[str, float]:
    """Retrieval numbers in percent, averaged over queries; boxes play no part.

    `AP_std@k`, `AP_divG@k`, `AP_lab@k` and `AP_trapezoid_full` are the readings of
    `ranking.AP_VARIANTS`, the last over the whole list given; `P@5` and `P@10` are precisions.
    """
    values = {
        f"AP_{name}@{k}": [AP_VARIANTS[name](one.hits, one.num_relevant, k) for one in judged]
        for name in ("std", "divG", "lab")
    }
    values["AP_trapezoid_full"] = [
        AP_VARIANTS["trapezoid"](one.hits, one.num_relevant, None) for one in judged
    ]
    for n in (5, 10):
        values[f"P@{n}"] = [precision_at(one.hits, n) for one in judged]
    return {name: 100.0 * float(np.mean(per_query)) for name, per_query in values.items()}


def evaluate_rank_lists(
    rank_lists: RankLists,
    ground_truth: GroundTruth,
    k: int = 128,
    reranked: RankLists | None = None,
) -> Results:
    """All metrics of a set of rank lists.

    Queries without results count as zero; a query's own images are taken out before ranks are
    counted. `AP_trapezoid_full` is the full protocol only where the lists hold the whole gallery;
    shorter lists are logged, and then it is a lower bound.

    Args:
        rank_lists: boxes in pixels of the stored gallery images.
        ground_truth: of the same dataset.
        k: the cut of the metrics that carry "@k".
        reranked: the same results in another order, judged as "search_reranked".

    Returns:
        {"localization": {...}, "search": {...}[, "search_reranked": {...}]}, in percent.
    """
    judged = ground_truth.judge_all(rank_lists)
    judged_again = None if reranked is None else ground_truth.judge_all(reranked)
    return _all_metrics(judged, judged_again, ground_truth, k)


class InstanceSearchEvaluator(DatasetEvaluator):
    """Collects one box for each (query, gallery image) pair and judges the rank lists.

    Distributed: every rank processes its share, rank 0 evaluates, the others return {}.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        *,
        k: int = 128,
        label: str = "localizer",
        baselines: Mapping[str, RankLists] | None = None,
        output_dir: str | Path | None = None,
        plot_curves: CurvePlotter | None = None,
        distributed: bool = True,
    ) -> None:
        """
        Args:
            ground_truth: of the dataset that is evaluated.
            k: the cut of the metrics.
            label: names this run in the curves.
            baselines: label -> rank lists to be judged beside, e.g. {"DASR": the search boxes};
                each adds "localization_<label>" to the results and a line to the curves.
            output_dir: where results.json, rank_lists.npz, coco_results.json and (with
                `plot_curves`) recall_iou.png go; None writes nothing.
            plot_curves: draws {label: curve} to a path, e.g. `engine.plots.plot_recall_iou`.
            distributed: False where this process alone has all the boxes.
        """
        self._ground_truth = ground_truth
        self._k = k
        self._label = label
        self._baselines = dict(baselines or {})
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._plot_curves = plot_curves
        self._distributed = distributed
        if label in self._baselines:
            raise ValueError(f"the run and a baseline are both labelled {label!r}")
        self._entries: list[_Entry] = []

    def reset(self) -> None:
        self._entries = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Take the answers to some pairs.

        Args:
            inputs: dicts with "query_id", "image_id", "rank" (any increasing numbers) and
                "similarity" (what the rank comes from).
            outputs: dicts with "instances": `pred_boxes` in pixels of the stored image and
                `scores` in [0, 1], of which the best is used; and, for re-ranking, "similarity":
                that of the refined box. An image without any detection stays in its rank, with an
                empty box.
        """
        for given, answer in zip(inputs, outputs, strict=True):
            box, probability = _best_box(answer["instances"])
            refined = answer.get("similarity")
            self._entries.append(
                _Entry(
                    query_id=int(given["query_id"]),
                    image_id=int(given["image_id"]),
                    rank=int(given["rank"]),
                    similarity=float(given["similarity"]),
                    box=box,
                    probability=probability,
                    refined_similarity=None if refined is None else float(refined),
                )
            )

    def evaluate(self) -> Results | dict:
        gathered = [self._entries]
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(self._entries, dst=0)
            if not comm.is_main_process():
                return {}
        entries = [entry for part in gathered for entry in part]
        empty = sum(entry.box is None for entry in entries)
        if empty:
            logger.warning("%d of %d images have no detection: IoU 0", empty, len(entries))
        rank_lists = _rank_lists(entries, lambda entry: entry.similarity)
        return self._judge(rank_lists, _reranked(entries))

    def _judge(self, rank_lists: RankLists, reranked: RankLists | None) -> Results:
        truth, k = self._ground_truth, self._k
        judged = truth.judge_all(rank_lists)
        judged_again = None if reranked is None else truth.judge_all(reranked)
        results = _all_metrics(judged, judged_again, truth, k)
        curves = {}
        for label, lists in self._baselines.items():
            baseline = truth.judge_all(lists)
            results[f"localization_{label}"] = localization_metrics(baseline, k)
            curves[label] = recall_iou_curve(baseline, k)
        curves[self._label] = recall_iou_curve(judged, k)
        counts = {
            "queries": len(truth.relevant),
            "queries_skipped_without_relevant_image": len(truth.skipped_query_ids),
            "queries_without_results": len(truth.without_results(rank_lists)),
            f"queries_without_hit@{k}": sum(not one.hits[:k].any() for one in judged),
        }
        logger.info("Counts: %s", counts)
        log_metrics_table(results, self._label)
        if self._output_dir is not None:
            self._write(results, curves, counts, rank_lists)
        return results

    def _write(
        self,
        results: Results,
        curves: Mapping[str, RecallIoUCurve],
        counts: Mapping[str, int],
        rank_lists: RankLists,
    ) -> None:
        folder = self._output_dir
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        report = {
            "unit": "percent",
            "k": self._k,
            "metrics": results,
            "counts": counts,
            "curves": {label: curve.to_dict() for label, curve in curves.items()},
        }
        (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n")
        (folder / "coco_results.json").write_text(json.dumps(rank_lists.to_coco_results()))
        rank_lists.save(folder / "rank_lists.npz")
        if self._plot_curves is not None:
            self._plot_curves(curves, folder / "recall_iou.png")
        logger.info("Results are in %s", folder)


def _all_metrics(
    judged: Sequence[JudgedList],
    reranked: Sequence[JudgedList] | None,
    ground_truth: GroundTruth,
    k: int,
) -> Results:
    # Localization first: it is the one that explains itself where no query can be evaluated.
    results: Results = OrderedDict(localization=localization_metrics(judged, k))
    _note_short_lists(judged, ground_truth)
    results["search"] = search_metrics(judged, k)
    if reranked is not None:
        results["search_reranked"] = search_metrics(reranked, k)
    return results


def _best_box(instances: Instances) -> tuple[tuple[float, float, float, float] | None, float]:
    if len(instances) == 0:
        return None, 0.0
    best = int(instances.scores.argmax())
    x0, y0, x1, y1 = instances.pred_boxes.tensor[best].tolist()
    return (x0, y0, x1, y1), float(instances.scores[best])


def _rank_lists(entries: Iterable[_Entry], similarity: Callable[[_Entry], float]) -> RankLists:
    by_query: dict[int, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_query[entry.query_id].append(entry)
    lists = []
    for query_id in sorted(by_query):
        # The search's rank settles ties, so that the order does not depend on the processes.
        ranked = sorted(by_query[query_id], key=lambda e: (-similarity(e), e.rank))
        lists.append(
            RankList(
                query_id,
                np.array([e.image_id for e in ranked], np.int64),
                np.array([e.box or (0.0, 0.0, 0.0, 0.0) for e in ranked], np.float32),
                np.array([similarity(e) for e in ranked], np.float32),
                np.array([e.probability for e in ranked], np.float32),
            )
        )
    return RankLists(tuple(lists))


def _reranked(entries: Sequence[_Entry]) -> RankLists | None:
    refined = {
        (e.query_id, e.image_id): e.refined_similarity
        for e in entries
        if e.refined_similarity is not None
    }
    if not refined:
        return None
    if len(refined) != len(entries):
        raise ValueError(
            f"{len(refined)} of {len(entries)} outputs carry a refined 'similarity'; re-ranking "
            "needs all of them or none"
        )
    return _rank_lists(entries, lambda e: refined[e.query_id, e.image_id])


def _note_short_lists(judged: Sequence[JudgedList], ground_truth: GroundTruth) -> None:
    gallery = len(ground_truth.image_ids)
    short = sum(
        len(one.hits) < gallery - len(ground_truth.own_image_ids[one.query_id]) for one in judged
    )
    if short:
        logger.info(
            "%d of %d rank lists do not hold the whole gallery of %d images; AP_trapezoid_full is "
            "a lower bound there",
            short,
            len(judged),
            gallery,
        )
