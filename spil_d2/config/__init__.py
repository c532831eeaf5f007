"""Configuration keys that spil_d2 adds to Detectron2's, split by concern."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg

from .cache import add_cache_config
from .cycle import add_cycle_config
from .cycle_training import add_cycle_training_config
from .few_shot_detection import add_few_shot_detection_config
from .few_shot_heads import add_fsod_config, add_tfa_config
from .few_shot_stages import add_few_shot_stage_config
from .files import SafeCfgNode
from .globaltrack import add_globaltrack_config
from .localizer import add_backbone_config, add_query_config
from .ranker import add_ranker_config
from .search import add_engine_config, add_reranking_config, add_search_config
from .training import (
    add_augmentation_config,
    add_coattention_config,
    add_stage_config,
    add_test_config,
)


def get_cfg() -> CN:
    """Detectron2's defaults with spil_d2's keys: what every tool, demo and test starts from.

    Its `merge_from_file` runs nothing that a file says, see `SafeCfgNode`.
    """
    cfg = SafeCfgNode()
    # Not SafeCfgNode(...), which would make nodes of its own type of all below.
    cfg.update(get_detectron2_cfg())
    add_spil_d2_config(cfg)
    return cfg


def add_spil_d2_config(cfg: CN) -> None:
    """Add all of spil_d2's keys to `cfg`."""
    add_backbone_config(cfg)
    add_query_config(cfg)
    add_globaltrack_config(cfg)
    add_fsod_config(cfg)
    add_search_config(cfg)
    add_engine_config(cfg)
    add_reranking_config(cfg)
    add_stage_config(cfg)
    add_coattention_config(cfg)
    add_augmentation_config(cfg)
    add_test_config(cfg)
    add_cycle_config(cfg)
    add_cycle_training_config(cfg)
    add_ranker_config(cfg)
    add_cache_config(cfg)
    # Few-shot detection by instance search.
    cfg.FEW_SHOT = CN()
    add_few_shot_stage_config(cfg)
    add_few_shot_detection_config(cfg)
    add_tfa_config(cfg)
    # "SGD" (Detectron2's, the paper's) or "AdamW" (fewer iterations for heads from scratch).
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Parts in which a process's share of IMS_PER_BATCH goes through the model, one optimizer step
    # for all of them; a divisor of that share. 1: at once.
    cfg.SOLVER.ACCUMULATE = 1
