"""Frozen vision transformers (DINOv2, DINOv3 and others of timm) over class-agnostic windows."""

from __future__ import annotations

from detectron2.config import CfgNode

from ...backbones import TimmViT
from ...backbones.timm_vit import FEATURE
from .base import SEARCH_ENGINE_REGISTRY
from .building import read_common_config
from .grid import Grid


@SEARCH_ENGINE_REGISTRY.register()
class ViT(Grid):
    """The Grid's windows, described by the patch tokens under them."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        vit = cfg.SEARCH.VIT
        backbone = TimmViT(vit.MODEL, vit.WEIGHTS).to(cfg.MODEL.DEVICE)
        return {
            **read_common_config(cfg),
            "backbone": backbone,
            "descriptor_layers": [FEATURE],
            "poolings": [vit.POOLING],
            "layer_weights": [1.0],
            "pixel_mean": backbone.pixel_mean,
            "pixel_std": backbone.pixel_std,
            "input_format": "RGB",
            "scales": cfg.SEARCH.GRID.SCALES,
        }
