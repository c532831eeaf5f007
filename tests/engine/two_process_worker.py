"""What each process of `test_two_processes` runs; imported by name in spawned processes."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.utils import comm

from spil_d2 import get_cfg
from spil_d2.data.build import StreamSampler
from spil_d2.data.datasets.instance_search import (
    load_gallery,
    load_queries,
    register_instance_search,
)
from spil_d2.engine.label_settings import LabelSettings
from spil_d2.engine.label_verification import build_verifier
from spil_d2.engine.list_expansion import build_list_expander
from spil_d2.engine.localizer import Localizer, LocalizerSettings
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.search_stage import search_dataset
from spil_d2.engine.self_training import SelfTraining
from spil_d2.engine.trainer import SpilTrainer
from spil_d2.structures import Query

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/spil_tiny_instant_test.yaml"
NAME = "ins_two_processes"

FEW_SHOT = (
    *("SEARCH.TOP_K", 3, "SPIL.TRAIN_TOP_K", 2, "TEST.DETECTIONS_PER_IMAGE", 3),
    *("FEW_SHOT.QE.ENABLED", True, "FEW_SHOT.QE.AFTER_STAGE", 0, "FEW_SHOT.QE.THRESHOLD", 0.02),
    *("FEW_SHOT.QE.TOP_K", 5, "FEW_SHOT.VERIFY.ENABLED", True, "FEW_SHOT.SECOND_PASS.LABELS", True),
    *("FEW_SHOT.IGNORE_OTHERS.ENABLED", True),
)
# Each item has a foreign query. Pictures of one batch have one size: at once they would be padded
# to the largest, and have anchors there. Moving boxes by colours is the main process's, and slow.
TRAINING = (
    *("DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (), "SPIL.MAX_SHARED_IMAGES", 1.0),
    *("SPIL.REFINE_BOXES", "none", "MODEL.BF16", "off", "INPUT.CROP_AROUND_BOXES", 0.0),
)


def run(dataset: Path, output: Path) -> None:
    """Publish stages 0 and 1, again with what few-shot detection adds to them, and train.

    Writes what this process saw as `RANK.json`, in `output` and in its folders. One process trains
    on its batch at once, and in two parts.
    """
    torch.set_num_threads(1)
    _make_all_stages(dataset, output)
    register_instance_search(NAME, dataset)
    _train(output / "trained", 1)
    if comm.get_world_size() == 1:
        _train(output / "in_parts", 2)


def _train(output: Path, parts: int) -> None:
    """The two stages of the instant schedule, each with its iterations."""
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.merge_from_list([*TRAINING, "OUTPUT_DIR", str(output), "SOLVER.ACCUMULATE", parts])
    resolve_config(cfg)
    cfg.freeze()
    # As Detectron2's default_setup, which gives each process other weights to start with.
    torch.manual_seed(comm.get_rank())
    trainer = SpilTrainer(cfg)
    losses = _Losses()
    trainer.register_hooks([losses])
    trainer.train()
    weights = hashlib.sha256()
    for value in trainer.unwrapped_model.state_dict().values():
        weights.update(value.numpy().tobytes())
    seen = {"losses": losses.seen, "weights": weights.hexdigest()}
    (output / f"{comm.get_rank()}.json").write_text(json.dumps(seen))


class _Losses(HookBase):
    """Keeps the total loss of each iteration, the mean over all processes."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_step(self) -> None:
        if comm.is_main_process():
            self.seen.append(self.trainer.storage.latest()["total_loss"][0])


def _make_all_stages(dataset: Path, output: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.MODEL.BF16 = "off"
    resolve_config(cfg)
    gallery, queries = load_gallery(dataset, "two_processes"), load_queries(dataset)
    _make_stages(cfg, gallery, queries, output)
    cfg.merge_from_list(list(FEW_SHOT))
    cfg.DATASETS.TRAIN = ("two_processes",)
    cfg.OUTPUT_DIR = str(output / "few_shot")
    classified = [replace(one, category_id=one.instance_id) for one in queries]
    _make_stages(cfg, gallery, classified, output / "few_shot")


def _make_stages(cfg, gallery: list[dict], queries: list[Query], output: Path) -> None:
    rank_lists = search_dataset(cfg, "two_processes", gallery, queries, output)
    torch.manual_seed(0)
    model = build_model(cfg)
    training = SelfTraining(
        Localizer(model, gallery, queries, LocalizerSettings.from_config(cfg)),
        rank_lists,
        queries,
        None,
        None,
        None,
        directory=output / "stages",
        fingerprint="0123456789abcdef",
        num_stages=cfg.SPIL.NUM_STAGES,
        train_top_k=cfg.SPIL.TRAIN_TOP_K,
        stage_top_k=cfg.SPIL.STAGE_TOP_K,
        thresholds=cfg.SPIL.TAU,
        num_crops=cfg.MODEL.QUERY.NUM_CROPS,
        cache_vectors=True,
        expander=build_list_expander(cfg, gallery, queries),
        verifier=build_verifier(cfg, gallery, queries, None),
        labels=LabelSettings.from_config(cfg),
    )
    pools = [training.pool(stage, iteration=stage) for stage in (0, 1)]
    text = json.dumps([asdict(pool) for pool in pools])
    seen = {
        "pools": hashlib.sha256(text.encode()).hexdigest(),
        "vectors": len(training.vectors(pools[1])),
        "indices": list(itertools.islice(StreamSampler(10), 4)),
        "trains_again": model.training,
    }
    (output / f"{comm.get_rank()}.json").write_text(json.dumps(seen))
