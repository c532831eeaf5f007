"""ImageNet classifiers on top of the frozen backbones: what class activation maps are made with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from ..utils.checkpoints import read_state
from .densenet import SHARED_WEIGHTS
from .efficientnet_lite import load_imagenet_weights
from .weights import resolve_weights


@dataclass(frozen=True)
class Classifier:
    """A linear classifier of a map's mean. Shape shorthand: N classes, C channels.

    Attributes:
        layer: the feature of the backbone that it is for.
        weight: (N, C) float32.
        bias: (N,) float32.
    """

    layer: str
    weight: torch.Tensor
    bias: torch.Tensor


def load_classifier(cfg: CfgNode) -> Classifier:
    """The classifier that belongs to the backbone of `build_frozen_backbone(cfg, ...)`.

    Raises:
        ValueError: for a backbone whose weights come without one.
    """
    name = cfg.SEARCH.BACKBONE or cfg.MODEL.BACKBONE.NAME
    if name == "build_efficientnet_lite_backbone":
        state = load_imagenet_weights(cfg.MODEL.EFFICIENTNET.VARIANT)
        layer, prefix = "head", "_fc"
    elif name == "build_densenet121_backbone":
        path = resolve_weights(cfg.MODEL.DENSENET.WEIGHTS, shared_name=SHARED_WEIGHTS)
        state = read_state(path)
        layer, prefix = "c5", "classifier"
    else:
        raise ValueError(
            f"the weights of {name!r} hold no classifier: set SEARCH.BACKBONE to "
            "build_efficientnet_lite_backbone or build_densenet121_backbone"
        )
    device = cfg.MODEL.DEVICE
    weight, bias = (state[f"{prefix}.{part}"].float().to(device) for part in ("weight", "bias"))
    return Classifier(layer, weight, bias)
