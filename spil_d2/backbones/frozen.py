"""Frozen feature extractors for search engines and co-attention."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone
from torch import nn

from ..utils.checkpoints import SafeCheckpointer
from .weights import RESNET_SHARED, RESNET_URL, resolve_weights

logger = logging.getLogger(__name__)


def build_frozen_backbone(cfg: CfgNode, features: Sequence[str]) -> Backbone:
    """`cfg.SEARCH.BACKBONE` with ImageNet weights, all frozen, with `features` as its outputs.

    Args:
        cfg: SEARCH.BACKBONE ("" is MODEL.BACKBONE.NAME), MODEL.EFFICIENTNET etc.
        features: names of maps.

    Raises:
        ValueError: for a backbone that has no frozen form here, or whose weights lack a feature.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FREEZE_AT = 5
    name = cfg.MODEL.BACKBONE.NAME = cfg.SEARCH.BACKBONE or cfg.MODEL.BACKBONE.NAME
    if name == "build_efficientnet_lite_backbone":
        cfg.MODEL.EFFICIENTNET.OUT_FEATURES = list(features)
    elif name == "build_densenet121_backbone":
        cfg.MODEL.DENSENET.OUT_FEATURES = list(features)
    elif name == "build_resnet_backbone":
        cfg.MODEL.RESNETS.OUT_FEATURES = list(features)
    else:
        raise ValueError(
            f"no frozen form of {name!r}: set SEARCH.BACKBONE to build_efficientnet_lite_backbone, "
            "build_densenet121_backbone or build_resnet_backbone"
        )
    backbone = build_backbone(cfg).to(cfg.MODEL.DEVICE)
    if name == "build_resnet_backbone":
        load_all_weights(backbone, resolve_weights("", shared_name=RESNET_SHARED, url=RESNET_URL))
    return backbone


def existing_resnet_layer(cfg: CfgNode, wanted: str) -> str:
    """`wanted`, or "res4" where the ResNet's weights hold no res5; the log says so."""
    name = cfg.SEARCH.BACKBONE or cfg.MODEL.BACKBONE.NAME
    if name != "build_resnet_backbone" or wanted != "res5":
        return wanted
    try:
        build_frozen_backbone(cfg, ["res5"])
    except MissingWeights as error:
        logger.warning("%s: working on res4 instead of res5", error)
        return "res4"
    return wanted


class MissingWeights(ValueError):
    """A file of weights lacks layers that were asked for."""


def load_all_weights(model: nn.Module, weights: str) -> None:
    """Load a checkpoint that must hold every parameter of a model.

    Args:
        model: any module; its parameters are overwritten.
        weights: path or address that Detectron2's checkpointer opens.

    Raises:
        MissingWeights: naming the file, where it lacks some of them.
    """
    # Detectron2 only logs which weights a file lacks, and random layers would search badly.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    SafeCheckpointer(model).load(weights)
    missing = [name for name, one in model.named_parameters() if one.isnan().any()]
    if missing:
        raise MissingWeights(
            f"{weights} lacks {len(missing)} weights of the model, the first is {missing[0]}"
        )
