"""One-shot FSOD's Attention-RPN (Fan et al., CVPR 2020; specification, section 4)."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor

from ..ops.correlation import KERNEL_NORMS, correlate, normalize_kernel
from .correlation_head import (
    CORRELATION_HEAD_REGISTRY,
    CorrelationHead,
    common_channels,
    level_shapes,
)
from .globaltrack_head import QUERY_REGION


@CORRELATION_HEAD_REGISTRY.register()
class AttentionRPN(CorrelationHead):
    """The RPN sees the depth-wise correlation with the mean of the query's region.

    A kernel is the region itself (C, S, S). The RoI heads get the raw levels, of one image where
    many queries share them, and under `QUERY_REGION` the regions: `MultiRelationROIHeads`.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, size: int, kernel_norm: str = "none"):
        """
        Args:
            input_shape: the gallery features' levels, of equal width.
            size: S.
            kernel_norm: of the mean, see `normalize_kernel`.

        Raises:
            ValueError: for another norm than `KERNEL_NORMS`, or levels of unequal width.
        """
        super().__init__()
        if kernel_norm not in KERNEL_NORMS:
            raise ValueError(f"KERNEL_NORM {kernel_norm!r} is none of {KERNEL_NORMS}")
        width = common_channels(input_shape)
        self.kernel_norm = kernel_norm
        self.rpn_shape = level_shapes(input_shape, width)
        self.roi_shape = {**input_shape, QUERY_REGION: ShapeSpec(width, size, size)}

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            "input_shape": input_shape,
            "size": cfg.MODEL.QUERY.POOLER_RESOLUTION,
            "kernel_norm": cfg.MODEL.CORRELATION_HEAD.KERNEL_NORM,
        }

    def to_kernel(self, regions: Tensor) -> Tensor:
        """The regions (N, C, S, S) as they are."""
        return regions

    def forward(
        self, features: dict[str, Tensor], kernel: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `CorrelationHead.forward`, with kernels (B, C, S, S) or (Q, C, S, S)."""
        mean = normalize_kernel(kernel.mean(dim=(2, 3)), self.kernel_norm)
        correlated = {
            name: correlate(y.expand(len(mean), -1, -1, -1), mean) for name, y in features.items()
        }
        return correlated, {**features, QUERY_REGION: kernel}
