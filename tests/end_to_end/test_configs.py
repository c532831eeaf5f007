"""Every configuration file: its keys exist, its schedule makes sense, its names are ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from spil_d2 import get_cfg
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.stages import StagePlan
from spil_d2.retrieval.engines import SEARCH_ENGINE_REGISTRY

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
LEAVES = [name for name in FILES if not Path(name).name.startswith("Base-")]


@pytest.fixture(params=FILES)
def cfg(request):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / request.param))
    return cfg


def test_there_are_presets_and_leaves() -> None:
    assert {"Base-SPIL-tiny.yaml", "Base-SPIL-fast.yaml", "Base-SPIL-paper.yaml"} <= set(FILES)
    assert LEAVES


def kind_of(cfg) -> str:
    """What a configuration trains: SPIL's localizer, CST's, CST's ranker, or a few-shot step."""
    if cfg.FEW_SHOT.STEP:
        return "few_shot"
    if cfg.MODEL.META_ARCHITECTURE == "Ranker":
        return "ranker"
    return "cst" if cfg.MODEL.CORRELATION_HEAD.NAME == "GlobalTrack" else "spil"


def test_there_are_all_kinds() -> None:
    kinds = set()
    for name in LEAVES:
        cfg = get_cfg()
        cfg.merge_from_file(str(CONFIGS / name))
        kinds.add(kind_of(cfg))
    assert kinds == {"spil", "cst", "ranker", "few_shot"}


def test_the_schedule_is_more_than_warm_up(cfg) -> None:
    is_staged = cfg.MODEL.META_ARCHITECTURE == "QueryRCNN" and kind_of(cfg) != "cst"
    if not is_staged:
        assert cfg.SOLVER.WARMUP_ITERS < cfg.SOLVER.MAX_ITER
        return
    plan = StagePlan.from_config(cfg)
    assert plan.num_stages == cfg.SPIL.NUM_STAGES
    assert len(cfg.SPIL.TAU) >= plan.num_stages
    assert list(cfg.SPIL.TAU) == sorted(cfg.SPIL.TAU, reverse=True)
    bounds = (*plan.starts, plan.max_iter)
    assert all(b - a > plan.warmup for a, b in zip(bounds, bounds[1:])), "only warm-up"


def test_what_a_run_needs_is_set(cfg) -> None:
    assert cfg.SEED >= 0
    if cfg.MODEL.QUERY.CACHE_VECTORS or cfg.RANKER.CACHED_VIEWS:
        assert cfg.MODEL.BACKBONE.FREEZE_AT >= 5
    if kind_of(cfg) == "ranker" or cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN":
        return
    assert cfg.MODEL.META_ARCHITECTURE == "QueryRCNN"
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1
    assert cfg.SEARCH.ENGINE in SEARCH_ENGINE_REGISTRY
    if kind_of(cfg) == "spil":
        # One-shot FSOD has no masks, and so nothing that needs co-attention.
        assert cfg.COATTENTION.ENABLED == cfg.MODEL.MASK_ON
        assert cfg.TEST.DETECTIONS_PER_IMAGE == 1
    elif kind_of(cfg) == "few_shot":
        assert not cfg.MODEL.MASK_ON and cfg.TEST.DETECTIONS_PER_IMAGE > 1
    else:
        assert cfg.TEST.DETECTIONS_PER_IMAGE >= cfg.CST.BOXES_PER_IMAGE
        assert cfg.MODEL.ROI_HEADS.NAME == "QueryGuidedROIHeads"


def test_nothing_stays_automatic(cfg) -> None:
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    resolve_config(cfg)
    assert "auto" not in (cfg.MODEL.BF16,)


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_name_datasets_and_an_output_folder(name: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    assert len(cfg.DATASETS.TRAIN) == 1 and cfg.DATASETS.TEST
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if kind_of(cfg) == "few_shot":
        task = cfg.FEW_SHOT.DATASET
        assert names == (f"{task}_base_train", f"{task}_test")
    else:
        assert all(one.startswith("ins_") for one in names)
    assert cfg.OUTPUT_DIR.startswith("./output/")
