"""What each process of `test_two_processes` runs; imported by name in spawned processes."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.utils import comm

from spil_d2 import get_cfg
from spil_d2.data.build import StreamSampler
from spil_d2.data.datasets.instance_search import load_gallery, load_queries
from spil_d2.engine.label_settings import LabelSettings
from spil_d2.engine.label_verification import build_verifier
from spil_d2.engine.list_expansion import build_list_expander
from spil_d2.engine.localizer import Localizer, LocalizerSettings
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.search_stage import search_dataset
from spil_d2.engine.self_training import SelfTraining
from spil_d2.structures import Query

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/spil_tiny_instant_test.yaml"


FEW_SHOT = (
    *("SEARCH.TOP_K", 3, "SPIL.TRAIN_TOP_K", 2, "TEST.DETECTIONS_PER_IMAGE", 3),
    *("FEW_SHOT.QE.ENABLED", True, "FEW_SHOT.QE.AFTER_STAGE", 0, "FEW_SHOT.QE.THRESHOLD", 0.02),
    *("FEW_SHOT.QE.TOP_K", 5, "FEW_SHOT.VERIFY.ENABLED", True, "FEW_SHOT.SECOND_PASS.LABELS", True),
    *("FEW_SHOT.IGNORE_OTHERS.ENABLED", True),
)


def run(dataset: Path, output: Path) -> None:
    """Publish stages 0 and 1, then again with what few-shot detection adds to them.

    Writes what this process saw as `RANK.json`, in `output` and in `output/few_shot`.
    """
    torch.set_num_threads(1)
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
        verifier=build_verifier(cfg, gallery, queries),
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
