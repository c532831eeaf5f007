"""Loss curves: a batch in parts against at once, and mixed precision against single."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import LRMultiplier
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import LinearParamScheduler

from ...data.build import PairDataset
from ...utils.checkpoints import SafeCheckpointer
from ..training import LocalizerTrainer, build_optimizer
from .comparison import compare
from .settings import BenchmarkSettings

# The paper's batch, of pictures and crops so small that a CPU goes through it in seconds.
_CURVE = [
    *("SOLVER.IMS_PER_BATCH", 8, "INPUT.MIN_SIZE_TRAIN", (128,), "INPUT.MAX_SIZE_TRAIN", 192),
    *("MODEL.QUERY.CROP_SIZE", 64, "MODEL.QUERY.CROP_CONTEXT", 8),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
]
# Random weights take small steps.
_SMALL = [
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.CLIP_GRADIENTS.ENABLED", True),
    *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.1),
]
_PARTS = 2
_OTHER_SEEDS = (1, 2, 3)

Way = tuple[int, bool, int]
"""Parts of a batch, whether in mixed precision, and the seed of what is sampled."""


def loss_curves(
    case: str,
    cfg: CfgNode,
    stream: Callable[[CfgNode], PairDataset],
    settings: BenchmarkSettings,
) -> list[dict[str, Any]]:
    """The same training from the same weights on the same items, in two ways each.

    Args:
        case: name of the preset.
        cfg: its configuration.
        stream: configuration -> items.
        settings: of the benchmark.

    Returns:
        A row for SOLVER.ACCUMULATE and one for SOLVER.AMP.ENABLED. "max_abs_diff" is of the total
        losses of the same iteration. "noise" is the mean difference of two references with
        different seeds of the sampled anchors and RoIs, "mean_abs_diff" that of our way and a
        reference, over all pairs each; "first_loss" and "last_loss" are those of the reference.
    """
    cfg = cfg.clone()
    cfg.merge_from_list(_SMALL if settings.is_small else _CURVE)
    items, size = stream(cfg), cfg.SOLVER.IMS_PER_BATCH
    count = 2 if settings.is_small else 16
    batches = [[items[i * size + k] for k in range(size)] for i in range(count)]

    def curve(way: Way) -> Callable[[], np.ndarray]:
        return lambda: _loss_curve(cfg, batches, way)

    # First, so that what only the first run takes is in no time.
    others = [curve((1, False, seed))() for seed in _OTHER_SEEDS]
    rows = []
    for name, way in ((f"in {_PARTS} parts", (_PARTS, False, 0)), ("AMP", (1, True, 0))):
        measured = compare(
            f"{case} {name}",
            curve((1, False, 0)),
            curve(way),
            lambda one, other: float(np.abs(one - other).max()),
            replace(settings, repeats=1),
            warm_up=False,
        )
        figures = _figures([measured.reference, *others], measured.ours)
        rows.append({**measured.row, **figures, "batch": size})
    return rows


def _figures(references: Sequence[np.ndarray], ours: np.ndarray) -> dict[str, Any]:
    """What a row says of curves (N,), the references being those of different seeds."""
    pairs = itertools.combinations(references, 2)
    return {
        "mean_abs_diff": float(np.mean([np.abs(one - ours).mean() for one in references])),
        "noise": float(np.mean([np.abs(one - other).mean() for one, other in pairs])),
        "iterations": len(ours),
        "first_loss": float(references[0][0]),
        "last_loss": float(references[0][-1]),
    }


def _loss_curve(cfg: CfgNode, batches: Sequence[list[dict]], way: Way) -> np.ndarray:
    """Total loss of each iteration (N,), the learning rate rising to SOLVER.BASE_LR.

    As a run begins: at the full rate from the start, new heads make small differences large.
    """
    cfg = cfg.clone()
    cfg.SOLVER.ACCUMULATE, cfg.SOLVER.AMP.ENABLED, cfg.SEED = way
    torch.manual_seed(0)
    model = build_model(cfg).train()
    if cfg.MODEL.WEIGHTS:
        SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    optimizer, count = build_optimizer(cfg, model), len(batches)
    trainer = LocalizerTrainer.build_stepper(cfg, model, optimizer)
    trainer.reset_data_loader(lambda: batches)
    rise = LRMultiplier(optimizer, LinearParamScheduler(1 / count, 1), count)
    losses = []
    with EventStorage() as storage:
        for iteration in range(count):
            trainer.iter = storage.iter = iteration
            trainer.run_step()
            rise.step()
            losses.append(storage.latest()["total_loss"][0])
    return np.array(losses)
