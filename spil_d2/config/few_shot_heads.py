"""Keys of the few-shot baselines: FSOD's heads and TFA's Faster R-CNN."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_fsod_config(cfg: CN) -> None:
    """Add MODEL.FSOD."""
    # One-shot FSOD: correlation head "AttentionRPN", whose kernels are regions of
    # QUERY.POOLER_RESOLUTION cells a side, with ROI_HEADS.NAME "MultiRelationROIHeads".
    cfg.MODEL.FSOD = CN()
    # Width of each relation; 0 is that of the regions that are compared (FSOD: res5's 2048).
    cfg.MODEL.FSOD.CHANNELS = 0
    # Regions of RoIs and queries go through ResNet's res5 before they are compared (C4).
    cfg.MODEL.FSOD.RES5 = False


def add_tfa_config(cfg: CN) -> None:
    """Add FEW_SHOT.TFA."""
    # A Faster R-CNN, trained on the base classes and fine-tuned on base and novel shots (TFA, Wang
    # et al., ICML 2020): FEW_SHOT.STEP "tfa_base", "tfa_finetune" (from MODEL.WEIGHTS on), or "tfa"
    # for both.
    cfg.FEW_SHOT.TFA = CN()
    # KEY VALUE ... of the fine-tuning alone, e.g. its schedule and its lower learning rate.
    cfg.FEW_SHOT.TFA.FINETUNE_OPTS = []
    # Fine-tuning scores classes by scaled cosines instead of a linear layer with biases.
    cfg.FEW_SHOT.TFA.COSINE = False
    cfg.FEW_SHOT.TFA.COSINE_SCALE = 20.0
