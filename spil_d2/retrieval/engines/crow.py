"""CroW: cross-dimensional weighting of one map (Kalantidis et al., ECCV-W 2016)."""

from __future__ import annotations

from detectron2.config import CfgNode

from .base import SEARCH_ENGINE_REGISTRY
from .global_pool import GlobalPool


@SEARCH_ENGINE_REGISTRY.register()
class CroW(GlobalPool):
    """The whole picture, or the map's crop under a query's box, pooled with CroW's weights."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings = super().from_config(cfg)
        return {**settings, "poolings": ["crow"] * len(settings["descriptor_layers"])}
