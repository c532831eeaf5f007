"""The steps of few-shot detection, each a run of tools/train_net.py in a folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ...data.datasets.instance_search import get_queries
from ...modeling import QueryRCNN
from ...structures import Query
from ..list_expansion import read_instances
from ..pair_trainer import load_localizer
from ..pipeline import FINAL_WEIGHTS, train
from .base_training import train_base
from .evaluation import evaluate_few_shot, finished_results, result_key
from .pictures import draw_labels
from .task import FewShotTask, with_keys
from .tfa import STEPS as TFA_STEPS
from .tfa import train_tfa

logger = logging.getLogger(__name__)

Step = Callable[[CfgNode, bool], dict]


def run_step(cfg, resume: bool) -> dict:
    """Run FEW_SHOT.STEP.

    Args:
        cfg: frozen.
        resume: go on with what lies in OUTPUT_DIR.

    Returns:
        On the main process data set name -> summary; {} for base training and elsewhere.

    Raises:
        ValueError: for an unknown step.
    """
    step = cfg.FEW_SHOT.STEP
    if step not in STEPS:
        raise ValueError(f"FEW_SHOT.STEP is {step!r}: use one of {tuple(STEPS)}, or ''")
    return STEPS[step](cfg, resume)


def run_base(cfg, resume: bool) -> dict:
    """Base training; leaves OUTPUT_DIR/localizer.pth."""
    train_base(cfg, resume)
    return {}


def run_novel(cfg, resume: bool) -> dict:
    """From base weights (MODEL.WEIGHTS): stages on the novel shots, then detection.

    Raises:
        ValueError: there are no weights to detect with.
    """
    task = FewShotTask.from_config(cfg)
    output = Path(cfg.OUTPUT_DIR)
    run = Path(cfg.FEW_SHOT.TRAINED_RUN or output)
    is_staged = bool(cfg.FEW_SHOT.TRAINED_RUN) or cfg.FEW_SHOT.SELF_TRAINING
    if is_staged and run == output:
        search = with_keys(cfg, DATASETS__TRAIN=(task.search,), DATASETS__TEST=(task.search,))
        train(search, resume)
        _draw_labels(search, task, output)
    weights = run / FINAL_WEIGHTS if is_staged else Path(cfg.MODEL.WEIGHTS)
    if not weights.is_file():
        raise ValueError(
            f"there are no weights {str(weights)!r}: FEW_SHOT.TRAINED_RUN must name a finished "
            "run, and with FEW_SHOT.SELF_TRAINING False MODEL.WEIGHTS the file that the step "
            "'base' has left"
        )
    folder, made_of = output / "inference" / task.test, result_key(cfg, weights)
    results = finished_results(folder, made_of) if resume else None
    # Nobody writes before all have read.
    comm.synchronize()
    if results is None:
        model = load_localizer(cfg, weights)
        extra = _expansion(task, run) if is_staged and cfg.FEW_SHOT.QE.ENABLED else ()
        results = evaluate_few_shot(cfg, model, extra, folder, made_of)
    return {task.test: results} if comm.is_main_process() else {}


def evaluate_weights(cfg, model: QueryRCNN, name: str) -> dict:
    """Detect with a model that is loaded, without expansion (`--eval-only`).

    Args:
        cfg: frozen.
        model: of MODEL.WEIGHTS.
        name: of the test images of FEW_SHOT.DATASET.

    Raises:
        ValueError: for another data set.
    """
    task = FewShotTask.from_config(cfg)
    if name != task.test:
        raise ValueError(f"DATASETS.TEST has {name!r}: FEW_SHOT.DATASET is tested on {task.test!r}")
    folder = Path(cfg.OUTPUT_DIR) / "inference" / task.test
    made_of = result_key(cfg, cfg.MODEL.WEIGHTS)
    results = evaluate_few_shot(cfg, model, (), folder, made_of)
    return {task.test: results} if comm.is_main_process() else {}


STEPS: dict[str, Step] = {
    "base": run_base,
    "novel": run_novel,
    **dict.fromkeys(TFA_STEPS, train_tfa),
}


def _expansion(task: FewShotTask, run: Path) -> Sequence[Query]:
    """What query expansion has found in a run."""
    gallery, queries = DatasetCatalog.get(task.search), get_queries(task.search)
    return read_instances(run, gallery, queries)


def _draw_labels(cfg, task: FewShotTask, output: Path) -> None:
    """Pictures of the lists that labelled what the last stage trained on."""
    gallery, queries = DatasetCatalog.get(task.search), get_queries(task.search)
    metadata = MetadataCatalog.get(task.test)
    ids = metadata.thing_dataset_id_to_contiguous_id
    names = {category: metadata.thing_classes[place] for category, place in ids.items()}
    count = cfg.FEW_SHOT.NUM_PICTURES
    draw_labels(cfg, task.search, gallery, queries, names, output / "rank_lists", count)
