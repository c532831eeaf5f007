"""Correlation heads: what a query's kernel does to a gallery image's feature maps.

Everything before this point is independent of the query, so the features of a gallery image are
computed once and serve every query (specification, section 8).

Shape shorthand: B: images, C: channels, H, W: map size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.correlation import KERNEL_NORMS, correlate_and_project, normalize_kernel
from .modulated_pooler import ModulatedMap

CORRELATION_HEAD_REGISTRY = Registry("CORRELATION_HEAD")
CORRELATION_HEAD_REGISTRY.__doc__ = """
Modulators of gallery features by a query kernel: each a `CorrelationHead`, called with
(cfg, input_shape: dict of ShapeSpec).
"""

HEAD_INPUTS = ("corr", "raw", "concat")


def build_correlation_head(cfg, input_shape: dict[str, ShapeSpec]) -> CorrelationHead:
    """Build `cfg.MODEL.CORRELATION_HEAD.NAME`."""
    return CORRELATION_HEAD_REGISTRY.get(cfg.MODEL.CORRELATION_HEAD.NAME)(cfg, input_shape)


def level_shapes(input_shape: dict[str, ShapeSpec], channels: int) -> dict[str, ShapeSpec]:
    """The shapes of the same levels with another width."""
    return {name: ShapeSpec(channels, stride=spec.stride) for name, spec in input_shape.items()}


def common_channels(input_shape: dict[str, ShapeSpec]) -> int:
    """The width of all levels; they must have the same."""
    channels = {spec.channels for spec in input_shape.values()}
    if len(channels) != 1:
        raise ValueError(f"a kernel needs levels of equal width, got {input_shape}")
    return int(channels.pop())


class CorrelationHead(nn.Module):
    """What a kernel is, and what it does to the maps of a gallery image.

    Attributes:
        rpn_shape, roi_shape: name -> shape of what `forward` returns for the RPN and for the RoI
            heads.
    """

    rpn_shape: dict[str, ShapeSpec]
    roi_shape: dict[str, ShapeSpec]

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the gallery's maps that `forward` takes."""
        return tuple(self.rpn_shape)

    def to_kernel(self, regions: Tensor) -> Tensor:
        """Kernels (N, C) of pooled query regions (N, C, S, S): their means, SPIL's object vectors.

        A head may keep more of the regions. Kernels of several crops are averaged.
        """
        return regions.mean(dim=(2, 3))

    def forward(
        self, features: dict[str, Tensor], kernel: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | dict[str, ModulatedMap]]:
        """
        Args:
            features: level -> (B, C, H, W).
            kernel: (B, ...), one for each image; or (Q, ...) on the maps of one image.

        Returns:
            What the RPN sees, max(B, Q) maps of each level, and what the RoI heads see.
        """
        raise NotImplementedError


@CORRELATION_HEAD_REGISTRY.register()
class ChannelReweighting(CorrelationHead):
    """`C_l = Y_l * A_l x` on each level (Eq. 3; A_l = identity for the paper's single level)."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        kernel_norm: str = "none",
        level_map: bool = False,
        head_input: str = "corr",
        rpn_levels: Sequence[str] = (),
    ):
        """
        Args:
            input_shape: the gallery features' levels, of equal width.
            kernel_norm: see `normalize_kernel`.
            level_map: learn a linear map A_l of the kernel for each level, the identity at first.
            head_input: what the RoI heads see (D6): the correlation, the raw map, or both.
            rpn_levels: levels whose correlation the RPN needs; () are all.
        """
        super().__init__()
        if head_input not in HEAD_INPUTS or kernel_norm not in KERNEL_NORMS:
            raise ValueError(
                f"HEAD_INPUT {head_input!r} is none of {HEAD_INPUTS} or KERNEL_NORM "
                f"{kernel_norm!r} is none of {KERNEL_NORMS}"
            )
        channels = common_channels(input_shape)
        self.kernel_norm = kernel_norm
        self.head_input = head_input
        self.level_maps = nn.ModuleDict()
        if level_map:
            for name in input_shape:
                self.level_maps[name] = nn.Linear(channels, channels, bias=False)
                nn.init.eye_(self.level_maps[name].weight)
        seen = {name: input_shape[name] for name in rpn_levels or input_shape}
        self.rpn_shape = level_shapes(seen, channels)
        self.roi_shape = level_shapes(input_shape, channels * (2 if head_input == "concat" else 1))

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self.roi_shape)

    @classmethod
    def from_config(cls, cfg, input_shape):
        keys = cfg.MODEL.CORRELATION_HEAD
        return {
            "input_shape": input_shape,
            "kernel_norm": keys.KERNEL_NORM,
            "level_map": keys.LEVEL_MAP,
            "head_input": keys.HEAD_INPUT,
            "rpn_levels": cfg.MODEL.RPN.IN_FEATURES,
        }

    def forward(
        self, features: dict[str, Tensor], kernel: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | dict[str, ModulatedMap]]:
        """
        Args:
            features: level -> (B, C, H, W).
            kernel: (B, C), one for each image; or (Q, C) on the maps of one image.

        Returns:
            The correlation for the RPN, max(B, Q) maps of each of its levels; and what the RoI
            heads see: where that is the correlation alone, it is not multiplied out.
        """
        kernel = normalize_kernel(kernel, self.kernel_norm)
        modulated = {
            name: ModulatedMap(y, self.level_maps[name](kernel) if self.level_maps else kernel)
            for name, y in features.items()
        }
        rpn_maps = {name: modulated[name].product() for name in self.rpn_shape}
        if self.head_input == "corr":
            return rpn_maps, modulated
        raw = {name: y.expand(len(kernel), -1, -1, -1) for name, y in features.items()}
        if self.head_input == "raw":
            return rpn_maps, raw
        both = {
            name: torch.cat([one.product(), raw[name]], dim=1) for name, one in modulated.items()
        }
        return rpn_maps, both


@CORRELATION_HEAD_REGISTRY.register()
class ProjectedReweighting(CorrelationHead):
    """`relu(W (Y * x) + U Y + b)`: the correlation and the raw map, brought to few channels.

    For wide frozen maps on small machines. The kernel is folded into W, so the wide correlation
    is never stored, and `U Y` is the same for all queries.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        kernel_norm: str = "l2",
        channels: int = 128,
        num_convs: int = 1,
    ):
        """
        Args:
            input_shape: the gallery features' levels, of equal width.
            kernel_norm: see `normalize_kernel`.
            channels: width of the maps that the RPN and the RoI heads see.
            num_convs: 3x3 convolutions on them before both.
        """
        super().__init__()
        width = common_channels(input_shape)
        self.kernel_norm = kernel_norm
        self.correlation = nn.ModuleDict()
        self.raw = nn.ModuleDict()
        for name in input_shape:
            self.correlation[name] = nn.Conv2d(width, channels, 1, bias=False)
            self.raw[name] = nn.Conv2d(width, channels, 1)
            for conv in (self.correlation[name], self.raw[name]):
                nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(self.raw[name].bias)
        # On the correlation, whatever the level, as Detectron2's RPN head is.
        self.convs = nn.Sequential(
            *(Conv2d(channels, channels, 3, padding=1, activation=F.relu) for _ in range(num_convs))
        )
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        self.rpn_shape = self.roi_shape = level_shapes(input_shape, channels)

    @classmethod
    def from_config(cls, cfg, input_shape):
        keys = cfg.MODEL.CORRELATION_HEAD
        return {
            "input_shape": input_shape,
            "kernel_norm": keys.KERNEL_NORM,
            "channels": keys.CHANNELS,
            "num_convs": keys.NUM_CONVS,
        }

    def forward(
        self, features: dict[str, Tensor], kernel: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Arguments and returns as in `ChannelReweighting.forward`."""
        kernel = normalize_kernel(kernel, self.kernel_norm)
        maps = {}
        for name, y in features.items():
            conditioned = correlate_and_project(y, kernel, self.correlation[name].weight)
            maps[name] = self.convs(torch.relu(conditioned + self.raw[name](y)))
        return maps, maps
