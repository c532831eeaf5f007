"""GlobalTrack's query-guided modulators: CST's localizer (CST specification, Section 3.1).

Shape shorthand: B: images, Q: queries, C: channels of the levels, O: of what is modulated,
H, W: map size, S: cells of a side of a query's region, R: RoIs of all maps.
"""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from ..ops.correlation import correlate_and_project
from .correlation_head import (
    CORRELATION_HEAD_REGISTRY,
    CorrelationHead,
    common_channels,
    level_shapes,
)

QUERY_REGION = "query_region"
"""Beside the levels' names, what the RoI heads find the queries' regions under."""


def _initialize(*convs: nn.Conv2d) -> None:
    for conv in convs:
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)


class RPNModulator(nn.Module):
    """One level: `m = Conv_SxS(query)`, then `Conv_1x1(x * m)`."""

    def __init__(self, width: int, channels: int, size: int, *, depthwise: bool = False):
        """
        Args:
            width: C.
            channels: O.
            size: S.
            depthwise: a channel of m depends on that channel of the query alone.
        """
        super().__init__()
        self.query = nn.Conv2d(width, width, size, groups=width if depthwise else 1)
        self.out = nn.Conv2d(width, channels, 1)
        _initialize(self.query, self.out)

    def forward(self, features: Tensor, query: Tensor) -> Tensor:
        """
        Args:
            features: (B, C, H, W), or (1, C, H, W) for all queries.
            query: (Q, C, S, S).

        Returns:
            (max(B, Q), O, H, W).
        """
        weights = self.query(query)[:, :, 0, 0]
        modulated = correlate_and_project(features, weights, self.out.weight)
        return modulated + self.out.bias[:, None, None]


class RoIModulator(nn.Module):
    """`Conv_1x1(Conv_3x3(gallery region) * Conv_3x3(query region))`, cell by cell."""

    def __init__(self, width: int, channels: int):
        """
        Args:
            width: C.
            channels: O.
        """
        super().__init__()
        self.query = nn.Conv2d(width, channels, 3, padding=1)
        self.gallery = nn.Conv2d(width, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 1)
        _initialize(self.query, self.gallery, self.out)

    def forward(self, regions: Tensor, query: Tensor, owners: Tensor) -> Tensor:
        """
        Args:
            regions: (R, C, S, S) pooled from raw gallery maps.
            query: (Q, C, S, S).
            owners: (R,) int64, whose region each of them is compared with.

        Returns:
            (R, O, S, S).
        """
        return self.out(self.gallery(regions) * self.query(query)[owners])


@CORRELATION_HEAD_REGISTRY.register()
class GlobalTrack(CorrelationHead):
    """QG-RPN: each level re-weighted by what its own convolution makes of the query's region.

    A kernel is the region itself (C, S, S). The RoI heads get the raw levels, of one image where
    many queries share them, and under `QUERY_REGION` the regions: `QueryGuidedROIHeads`.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        size: int,
        channels: int = 0,
        depthwise: bool = False,
    ):
        """
        Args:
            input_shape: the gallery features' levels, of equal width.
            size: S.
            channels: O; 0 is the levels' width.
            depthwise: see `RPNModulator`.
        """
        super().__init__()
        width = common_channels(input_shape)
        self.modulators = nn.ModuleDict(
            {
                name: RPNModulator(width, channels or width, size, depthwise=depthwise)
                for name in input_shape
            }
        )
        self.rpn_shape = level_shapes(input_shape, channels or width)
        self.roi_shape = {**input_shape, QUERY_REGION: ShapeSpec(width, size, size)}

    @classmethod
    def from_config(cls, cfg, input_shape):
        keys = cfg.MODEL.GLOBALTRACK
        return {
            "input_shape": input_shape,
            "size": cfg.MODEL.QUERY.POOLER_RESOLUTION,
            "channels": keys.CHANNELS,
            "depthwise": keys.DEPTHWISE,
        }

    def to_kernel(self, regions: Tensor) -> Tensor:
        """The regions (N, C, S, S) as they are."""
        return regions

    def forward(
        self, features: dict[str, Tensor], kernel: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """As `CorrelationHead.forward`, with kernels (B, C, S, S) or (Q, C, S, S)."""
        modulated = {name: self.modulators[name](y, kernel) for name, y in features.items()}
        return modulated, {**features, QUERY_REGION: kernel}
