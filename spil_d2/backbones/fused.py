"""One map from several levels of a backbone, without parameters of its own."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor
from torch.nn import functional as F

from .efficientnet_lite import EfficientNetLite


class FusedLevels(Backbone):
    """Levels of a backbone, each scaled to unit length per cell, resized to one stride and stacked.

    The result is one map of C = sum of the levels' widths, on which SPIL's single-level
    correlation works as it does on res4, with deep and shallow evidence side by side.
    """

    def __init__(self, bottom_up: Backbone, in_features: list[str], stride: int):
        """
        Args:
            bottom_up: the backbone; its padding rules hold for the fused map.
            in_features: levels to stack.
            stride: of the result, in input pixels.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.scales = tuple(shapes[name].stride / stride for name in in_features)
        self._shape = ShapeSpec(sum(shapes[name].channels for name in in_features), stride=stride)

    @property
    def size_divisibility(self) -> int:
        return self.bottom_up.size_divisibility

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"fused": self._shape}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """
        Args:
            image: (B, 3, H, W), normalized.

        Returns:
            {"fused": (B, C, H / stride, W / stride)}; each level has mean square 1 in a cell.
        """
        levels = self.bottom_up(image)
        maps = []
        for name, scale in zip(self.in_features, self.scales):
            level = levels[name]
            level = F.normalize(level.float(), dim=1) * level.shape[1] ** 0.5
            maps.append(_rescale(level, scale))
        return {"fused": torch.cat(maps, dim=1)}


def _rescale(level: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return level
    if scale < 1:
        return F.avg_pool2d(level, round(1 / scale))
    return F.interpolate(level, scale_factor=scale, mode="bilinear", align_corners=False)


@BACKBONE_REGISTRY.register()
def build_fused_efficientnet_lite_backbone(cfg, input_shape: ShapeSpec) -> FusedLevels:
    """`tiny` preset: EfficientNet-Lite levels `cfg.MODEL.FUSED.IN_FEATURES` as one map."""
    bottom_up = EfficientNetLite(
        variant=cfg.MODEL.EFFICIENTNET.VARIANT,
        out_features=cfg.MODEL.FUSED.IN_FEATURES,
        pretrained=cfg.MODEL.EFFICIENTNET.PRETRAINED,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        fold_normalization=cfg.MODEL.BACKBONE.FREEZE_AT >= 5,
    )
    return FusedLevels(bottom_up, cfg.MODEL.FUSED.IN_FEATURES, cfg.MODEL.FUSED.STRIDE)
