"""What a configuration leaves to the machine: precision, and weights that may lie beside it."""

from __future__ import annotations

import logging

import torch

from ..backbones.weights import RESNET_SHARED, RESNET_URL, resolve_weights

logger = logging.getLogger(__name__)


def resolve_config(cfg) -> None:
    """Replace "auto" values in place, and say what was chosen.

    - MODEL.BF16 "auto": on where the CPU or GPU computes in bfloat16 natively.
    - MODEL.WEIGHTS, where it names Detectron2's R-50: a copy that lies beside the project.
    - MODEL.RESNETS.RES5_NORM "auto": "GN" where that copy holds no res5.
    """
    model = cfg.MODEL
    if model.BF16 not in ("auto", "on", "off"):
        raise ValueError(f"MODEL.BF16 {model.BF16!r} is none of 'auto', 'on', 'off'")
    if model.BF16 == "auto":
        model.BF16 = "on" if _has_bf16(cfg.MODEL.DEVICE) else "off"
        logger.info(
            "backbone and correlated maps in %s", "bfloat16" if model.BF16 == "on" else "float32"
        )
    if cfg.MODEL.WEIGHTS == RESNET_URL:
        cfg.MODEL.WEIGHTS = resolve_weights("", shared_name=RESNET_SHARED, url=RESNET_URL)
        uses_res5 = cfg.MODEL.ROI_HEADS.NAME == "QueryRes5ROIHeads" or cfg.MODEL.FSOD.RES5
        has_res5 = not cfg.MODEL.WEIGHTS.endswith(RESNET_SHARED)
        if uses_res5 and not has_res5 and cfg.MODEL.RESNETS.RES5_NORM == "auto":
            # Frozen statistics around random convolutions would blow up.
            cfg.MODEL.RESNETS.RES5_NORM = "GN"
            logger.warning(
                "%s holds no res5: the RoI head starts it at random, with group normalization",
                cfg.MODEL.WEIGHTS,
            )


def _has_bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
