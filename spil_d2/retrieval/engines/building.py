"""Engines out of a configuration."""

from __future__ import annotations

from detectron2.config import CfgNode

from ...backbones import existing_resnet_layer
from ..whitening import Whitening
from .base import SEARCH_ENGINE_REGISTRY, SearchEngine


def build_search_engine(cfg: CfgNode) -> SearchEngine:
    """The engine that `cfg.SEARCH.ENGINE` names."""
    return SEARCH_ENGINE_REGISTRY.get(cfg.SEARCH.ENGINE)(cfg)


def read_common_config(cfg: CfgNode) -> dict:
    """The arguments that all engines of pooled maps take from `cfg.SEARCH` and `cfg.MODEL`."""
    search = cfg.SEARCH
    return {
        "descriptor_layers": [existing_resnet_layer(cfg, one) for one in search.DESCRIPTOR_LAYERS],
        "longer_side": search.LONGER_SIDE,
        "poolings": search.POOLINGS,
        "layer_weights": search.LAYER_WEIGHTS,
        "whitening": Whitening.load(search.WHITENING) if search.WHITENING else None,
        "bf16": search.BF16,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
    }
