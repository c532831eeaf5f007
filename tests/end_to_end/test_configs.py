"""Every configuration file: its keys exist, its stages make sense, its names are ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from spil_d2 import get_cfg
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.stages import StagePlan
from spil_d2.retrieval.engines import SEARCH_ENGINE_REGISTRY

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
LEAVES = [name for name in FILES if not name.startswith("Base-")]


@pytest.fixture(params=FILES)
def cfg(request):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / request.param))
    return cfg


def test_there_are_presets_and_leaves() -> None:
    assert {"Base-SPIL-tiny.yaml", "Base-SPIL-fast.yaml", "Base-SPIL-paper.yaml"} <= set(FILES)
    assert LEAVES


def test_the_stages_fit_the_schedule(cfg) -> None:
    plan = StagePlan.from_config(cfg)
    assert plan.num_stages == cfg.SPIL.NUM_STAGES
    assert len(cfg.SPIL.TAU) >= plan.num_stages
    assert list(cfg.SPIL.TAU) == sorted(cfg.SPIL.TAU, reverse=True)
    bounds = (*plan.starts, plan.max_iter)
    assert all(b - a > plan.warmup for a, b in zip(bounds, bounds[1:])), "only warm-up"


def test_what_a_run_needs_is_set(cfg) -> None:
    assert cfg.SEED >= 0
    assert cfg.COATTENTION.ENABLED
    assert cfg.MODEL.META_ARCHITECTURE == "QueryRCNN"
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1 == cfg.TEST.DETECTIONS_PER_IMAGE
    assert cfg.SEARCH.ENGINE in SEARCH_ENGINE_REGISTRY
    if cfg.MODEL.QUERY.CACHE_VECTORS:
        assert cfg.MODEL.BACKBONE.FREEZE_AT >= 5


def test_nothing_stays_automatic(cfg) -> None:
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    resolve_config(cfg)
    assert "auto" not in (cfg.MODEL.BF16,)


@pytest.mark.parametrize("name", LEAVES)
def test_leaves_name_datasets_and_an_output_folder(name: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    assert len(cfg.DATASETS.TRAIN) == 1 and cfg.DATASETS.TEST
    assert all(one.startswith("ins_") for one in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    assert cfg.OUTPUT_DIR.startswith("./output/")
