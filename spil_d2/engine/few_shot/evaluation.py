"""COCO results of a few-shot detector on the test images, with all that they depend on."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm

from ...evaluation.few_shot import FewShotCOCOEvaluator
from ...modeling import QueryRCNN
from ...structures import Query
from ...utils.artifacts import file_sha256, fingerprint, write_json_atomic
from ..localizer import LocalizerSettings
from ..training_run import kept_keys
from .detection import (
    build_detector,
    build_test_loader,
    resolve_gamma,
    similarity_centre,
    task_shots,
)
from .export import export_detector
from .kernels import ClassKernels, class_kernels
from .pictures import draw_detections
from .task import FewShotTask

logger = logging.getLogger(__name__)

RESULTS = "few_shot.json"
DETECTIONS = "coco_instances_results.json"
"""What Detectron2's evaluator calls its file of detections."""


def finished_results(folder: Path, made_of: str) -> dict | None:
    """The results of the same detector in a folder, or None."""
    path = folder / RESULTS
    if not path.is_file():
        return None
    results = json.loads(path.read_text())
    return results if results["fingerprint"] == made_of else None


def evaluate_few_shot(
    cfg, model: QueryRCNN, extra: Sequence[Query], folder: Path, made_of: str
) -> dict:
    """Detect on all test images and judge novel, base and all classes.

    Writes `few_shot.json`, last, beside Detectron2's files, pictures of each class, and the
    detector as a Detectron2 model directory (`detector/`).

    Args:
        cfg: frozen.
        model: that detects.
        extra: instances of query expansion, which join the class kernels.
        folder: `inference/{name}_test` of a run.
        made_of: fingerprint of model and keys.

    Returns:
        On the main process the results, else {}. `metrics` has those of FewShotCOCOEvaluator.
    """
    started = time.monotonic()
    task = FewShotTask.from_config(cfg)
    if comm.is_main_process():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS).unlink(missing_ok=True)
    comm.synchronize()
    centre = similarity_centre(cfg, model, DatasetCatalog.get(task.search))
    gamma = resolve_gamma(cfg, model, task, centre, folder)
    shots = task_shots(cfg, task)
    settings = LocalizerSettings.from_config(cfg)
    kernels = class_kernels(model, settings, shots, extra, centre=centre if gamma > 0 else None)
    metrics = _judge(cfg, task, model, kernels, gamma, folder)
    if not comm.is_main_process():
        return {}
    _draw(cfg, task, shots, folder)
    _export(cfg, task, model, kernels, gamma, folder / "detector")
    results = {
        **describe_run(cfg, task),
        "fingerprint": made_of,
        "metrics": finite(metrics["bbox"]),
        "gamma": gamma,
        "shots_used": len(shots),
        "expansion": len(extra),
        "seconds": time.monotonic() - started,
    }
    write_json_atomic(folder / RESULTS, results)
    return results


def _judge(
    cfg, task: FewShotTask, model: QueryRCNN, kernels: ClassKernels, gamma: float, folder: Path
) -> dict:
    """What FewShotCOCOEvaluator returns, on the main process."""
    gallery = DatasetCatalog.get(task.test)
    ids = MetadataCatalog.get(task.test).thing_dataset_id_to_contiguous_id
    detector = build_detector(cfg, model, kernels, ids, gamma)
    evaluator = FewShotCOCOEvaluator(
        task.test, output_dir=folder, ims_per_batch=cfg.SOLVER.IMS_PER_BATCH
    )
    return inference_on_dataset(detector, build_test_loader(cfg, gallery), evaluator)


def _draw(cfg, task: FewShotTask, shots: Sequence[Query], folder: Path) -> None:
    """The pictures of the novel classes, in place of earlier ones."""
    pictures = folder / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    metadata = MetadataCatalog.get(task.test)
    draw_detections(
        folder / DETECTIONS,
        DatasetCatalog.get(task.test),
        [shot for shot in shots if shot.category_id in metadata.novel_ids],
        metadata.thing_dataset_id_to_contiguous_id,
        metadata.thing_classes,
        pictures,
        cfg.FEW_SHOT.NUM_PICTURES,
    )


def _export(
    cfg, task: FewShotTask, model: QueryRCNN, kernels: ClassKernels, gamma: float, folder: Path
) -> None:
    """The detector of these classes alone, in place of an earlier one."""
    shutil.rmtree(folder, ignore_errors=True)
    metadata = MetadataCatalog.get(task.test)
    ids = metadata.thing_dataset_id_to_contiguous_id
    places = {category: place for place, category in enumerate(kernels.categories)}
    names = [metadata.thing_classes[ids[category]] for category in kernels.categories]
    export_detector(cfg, build_detector(cfg, model, kernels, places, gamma), names, folder)


def describe_run(cfg, task: FewShotTask) -> dict:
    """What few-shot numbers are known to depend on, beside the method."""
    return {
        "dataset": task.name,
        "shots": task.shots,
        "seed": task.seed,
        "test_classes": cfg.FEW_SHOT.TEST_CLASSES,
        "world_size": comm.get_world_size(),
        "batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "iterations": cfg.SOLVER.MAX_ITER,
    }


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics with None for what COCO's evaluation has no number for (NaN)."""
    return {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}


def result_key(cfg, weights: str | Path) -> str:
    """Fingerprint of all that detections depend on: keys, and the file of the weights."""
    names = ("INPUT", "MODEL", "SOLVER", "SPIL", "SEARCH", "FEW_SHOT", "TEST")
    return fingerprint([file_sha256(Path(weights)), kept_keys(cfg, names)])
