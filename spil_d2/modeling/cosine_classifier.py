"""TFA's cosine classifier (Wang et al., ICML 2020, Section 3) for Detectron2's standard RoI heads.

Shape shorthand: R: RoIs, D: width of their features, N: foreground classes.
"""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    FastRCNNOutputLayers,
    StandardROIHeads,
)
from torch import Tensor, nn
from torch.nn import functional as F


class CosineOutputLayers(FastRCNNOutputLayers):
    """Class scores are cosines of a RoI's features and the classes' weights, times a scale."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, scale: float = 20.0, **kwargs):
        """
        Args:
            input_shape: of the box head's features.
            scale: of the cosines, the inverse of a temperature.
        """
        super().__init__(input_shape, **kwargs)
        self.scale = scale
        self.cls_score = nn.Linear(
            self.cls_score.in_features, self.cls_score.out_features, bias=False
        )
        nn.init.normal_(self.cls_score.weight, std=0.01)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            **super().from_config(cfg, input_shape),
            "scale": cfg.FEW_SHOT.TFA.COSINE_SCALE,
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) features -> logits (R, N + 1) and deltas (R, 4 N)."""
        x = x.flatten(1)
        cosines = F.linear(F.normalize(x, dim=1), F.normalize(self.cls_score.weight, dim=1))
        return self.scale * cosines, self.bbox_pred(x)


@ROI_HEADS_REGISTRY.register()
class CosineROIHeads(StandardROIHeads):
    """Detectron2's StandardROIHeads with a cosine classifier."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        arguments = super()._init_box_head(cfg, input_shape)
        shape = arguments["box_head"].output_shape
        return {**arguments, "box_predictor": CosineOutputLayers(cfg, shape)}
