"""The main job from a configuration to pictures: search, train in stages, localize, evaluate."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from ..data.datasets.instance_search import get_queries
from ..evaluation import GroundTruth, evaluate_rank_lists
from ..modeling import QueryRCNN
from ..retrieval import build_search_engine
from ..retrieval.search import SearchSettings
from ..structures import Query, RankLists
from ..utils.artifacts import fingerprint, write_json_atomic
from .box_refinement import build_refiner
from .inference import (
    evaluate_localized,
    localize_dataset,
    mix_similarities,
    own_similarities,
    refined_similarities,
    rerank,
    weigh_by_probability,
)
from .localizer import Localizer, LocalizerSettings, Masks
from .report import (
    NUM_RESULTS,
    MetricRow,
    ReportQuery,
    StageRow,
    build_report_queries,
    write_report,
)
from .search_stage import open_index, search_dataset
from .summary import summarize
from .trainer import RESULT_KEYS, SpilTrainer, known_ground_truth, stage_fingerprint

logger = logging.getLogger(__name__)

NUM_REPORT_QUERIES = 8
SUMMARY = "summary.json"
FINAL_WEIGHTS = "model_final.pth"
"""What Detectron2's trainer leaves in OUTPUT_DIR after the last iteration."""


def train(cfg, resume: bool) -> dict:
    """Search, train all stages, and evaluate every dataset of DATASETS.TEST.

    Writes `inference/NAME/`, `report.html` and `summary.json` into OUTPUT_DIR.

    Returns:
        On the main process dataset name -> summary, elsewhere {}.
    """
    finished = _finished(cfg) if resume else None
    if finished is not None:
        logger.info("%s holds the finished run: nothing is left to do", cfg.OUTPUT_DIR)
        return finished
    clock = _Clock(Path(cfg.OUTPUT_DIR) / "elapsed.json", resume)
    trainer = SpilTrainer(cfg, resume)
    trainer.train()
    clock.tick()
    name = cfg.DATASETS.TRAIN[0]
    training = trainer.self_training
    num_stages = trainer.plan.num_stages
    summaries = {}
    localizer = Localizer(
        trainer.unwrapped_model,
        trainer.gallery,
        trainer.queries,
        LocalizerSettings.from_config(cfg),
    )
    pool = training.pool(num_stages - 1, trainer.plan.max_iter)
    if comm.is_main_process():
        stages = [training.manifest(k) for k in range(num_stages + 1)]
        localized = training.localized(num_stages)
        summaries[name] = _finish(
            cfg,
            name,
            trainer.gallery,
            trainer.queries,
            trainer.rank_lists,
            localized,
            stages,
            clock,
            segment=lambda shown: localizer.segment(shown, pool),
            is_main=True,
        )
    for other in cfg.DATASETS.TEST:
        if other != name:
            summaries.update(evaluate(cfg, trainer.unwrapped_model, other, clock))
    comm.synchronize()
    return summaries


def _finished(cfg) -> dict | None:
    """The summaries of a run of this configuration that has ended, or None."""
    summaries = {}
    for name in (cfg.DATASETS.TRAIN[0], *cfg.DATASETS.TEST):
        path = Path(cfg.OUTPUT_DIR) / "inference" / name / SUMMARY
        if not path.is_file():
            return None
        summaries[name] = json.loads(path.read_text())
        if summaries[name]["fingerprint"] != result_fingerprint(cfg):
            return None
    return summaries


def result_fingerprint(cfg) -> str:
    """Of all keys that a run's result depends on."""
    own = [cfg.SEARCH[key] for key in RESULT_KEYS]
    return fingerprint([stage_fingerprint(cfg), own, cfg.TEST.dump()])


def evaluate(cfg, model: QueryRCNN, name: str, clock: _Clock | None = None) -> dict:
    """Localize and evaluate a dataset that the model was not trained on (D21: inductive).

    Returns:
        On the main process {name: summary}, elsewhere {}.
    """
    # Where a training run is or was, `summary.json` of OUTPUT_DIR is that run's.
    trained_here = (Path(cfg.OUTPUT_DIR) / "stages").exists()
    is_main = not trained_here and name == cfg.DATASETS.TEST[0]
    clock = clock or _Clock(Path(cfg.OUTPUT_DIR) / f"elapsed_{name}.json", resume=False)
    gallery, queries = DatasetCatalog.get(name), get_queries(name)
    rank_lists = search_dataset(cfg, name, gallery, queries, cfg.OUTPUT_DIR)
    localizer = Localizer(model, gallery, queries, LocalizerSettings.from_config(cfg))
    localized, pool = localize_dataset(
        localizer,
        queries,
        rank_lists,
        train_top_k=cfg.SPIL.TRAIN_TOP_K,
        num_crops=cfg.MODEL.QUERY.NUM_CROPS,
        tau=cfg.SPIL.TAU[cfg.SPIL.NUM_STAGES - 1],
    )
    if not comm.is_main_process():
        return {}
    assert localized is not None
    summary = _finish(
        cfg,
        name,
        gallery,
        queries,
        rank_lists,
        localized,
        [],
        clock,
        segment=lambda shown: localizer.segment(shown, pool),
        is_main=is_main,
    )
    return {name: summary}


def _finish(
    cfg,
    name: str,
    gallery: list[dict],
    queries: Sequence[Query],
    rank_lists: RankLists,
    localized: RankLists,
    stages: list[dict],
    clock: _Clock,
    *,
    segment: Callable[[RankLists], Masks],
    is_main: bool,
) -> dict:
    """Refine, re-rank, evaluate, draw; on the main process only."""
    folder = Path(cfg.OUTPUT_DIR) / "inference" / name
    folder.mkdir(parents=True, exist_ok=True)
    # Of another final order: while its files are replaced, this dataset is not finished.
    (folder / SUMMARY).unlink(missing_ok=True)
    refiner = build_refiner(cfg.TEST.REFINE_BOXES, gallery)
    if refiner is not None:
        localized = refiner.refine_lists(localized, cfg.SPIL.TAU[cfg.SPIL.NUM_STAGES - 1])
    similarities = _final_similarities(cfg, name, gallery, queries, localized)
    final = localized if similarities is None else rerank(localized, similarities)
    final.save(folder / "final_rank_lists.npz")
    write_json_atomic(folder / "final_coco_results.json", final.to_coco_results())
    truth = known_ground_truth(gallery, queries)
    results: dict = {}
    about = {"dataset": name, "fingerprint": result_fingerprint(cfg)}
    summary: dict = {"seconds": clock.tick(), **about}
    if truth is not None:
        search = evaluate_rank_lists(rank_lists, truth)
        engine = cfg.SEARCH.ENGINE
        results = evaluate_localized(localized, similarities, truth, {engine: rank_lists}, folder)
        metrics = [one.get("metrics") for one in stages[1:]]
        summary = summarize(search, metrics, results, clock.tick(), about)
    report = Path(cfg.OUTPUT_DIR) / "report.html" if stages else folder / "report.html"
    write_report(
        report,
        f"Instance search in {name}",
        _metric_rows(summary, results),
        _stage_rows(summary, stages),
        None if truth is None else folder / "recall_iou.png",
        _pictures(queries, gallery, rank_lists, final, truth, segment),
        subtitle=f"{cfg.SEARCH.ENGINE}, then {cfg.MODEL.META_ARCHITECTURE}; "
        f"{len(gallery)} images, {len(queries)} queries",
    )
    if is_main:
        write_json_atomic(Path(cfg.OUTPUT_DIR) / SUMMARY, summary)
    # Last: it says that this dataset is finished.
    write_json_atomic(folder / SUMMARY, summary)
    logger.info("pictures are in %s", report)
    return summary


def _final_similarities(
    cfg, name: str, gallery: list[dict], queries: Sequence[Query], localized: RankLists
) -> dict[tuple[int, int], float] | None:
    """What the final order comes from; None: the search's order stays."""
    node = cfg.SEARCH
    if not node.RERANK and not node.RERANK_POWER:
        return None
    similarities = own_similarities(localized)
    if node.RERANK:
        index = open_index(cfg, name, gallery, cfg.OUTPUT_DIR)
        reciprocal = SearchSettings.from_config(cfg).reciprocal
        refined = refined_similarities(
            build_search_engine(cfg), index, gallery, queries, localized, reciprocal
        )
        similarities = mix_similarities(refined, similarities, node.RERANK_SHARE)
    return weigh_by_probability(localized, similarities, node.RERANK_POWER)


def _pictures(
    queries: Sequence[Query],
    gallery: list[dict],
    rank_lists: RankLists,
    final: RankLists,
    truth: GroundTruth | None,
    segment: Callable[[RankLists], Masks],
) -> list[ReportQuery]:
    """Some queries' results, those that the report draws first with masks."""
    shown = queries[:: max(1, len(queries) // NUM_REPORT_QUERIES)][:NUM_REPORT_QUERIES]
    # A query's own images may be in its list and are not in the report.
    drawn = [final[one.id].top(NUM_RESULTS + len(one.own_image_ids)) for one in shown]
    masks = segment(RankLists(tuple(drawn)))
    return build_report_queries(shown, gallery, rank_lists, final, truth, masks=masks)


def _metric_rows(summary: dict, results: dict) -> list[MetricRow]:
    if not results:
        return []
    rows = [
        MetricRow("mIoU_TP@128", 100 * summary["miou_search"], 100 * summary["miou_final"]),
        MetricRow(
            "CorLoc50@128", 100 * summary["corloc50_search"], 100 * summary["corloc50_final"]
        ),
    ]
    before = results["search"]
    after = results.get("search_reranked", before)
    rows += [MetricRow(key, before[key], after[key]) for key in before]
    return rows


def _stage_rows(summary: dict, stages: list[dict]) -> list[StageRow]:
    if not stages:
        return []
    rows = [StageRow("search", 100 * summary["miou_search"] if "miou_search" in summary else None)]
    for k, stage in enumerate(stages[:-1]):
        statistics = stage["statistics"]
        miou = summary["miou_stage"][k] if "miou_stage" in summary else None
        rows.append(
            StageRow(
                f"stage {k}",
                None if miou is None else 100 * miou,
                statistics["kept"],
                statistics["total"],
                statistics["mean_weight"],
            )
        )
    if "miou_final" in summary:
        rows.append(StageRow("final boxes", 100 * summary["miou_final"]))
    return rows


class _Clock:
    """Seconds of a run, those of its killed parts included as far as they were noted."""

    def __init__(self, path: Path, resume: bool):
        self._path = path
        self._start = time.monotonic()
        known = json.loads(path.read_text())["seconds"] if resume and path.is_file() else 0.0
        self._before = float(known)

    def tick(self) -> float:
        """Note and return the seconds so far; main process only writes."""
        seconds = self._before + time.monotonic() - self._start
        if comm.is_main_process():
            write_json_atomic(self._path, {"seconds": seconds})
        return seconds
