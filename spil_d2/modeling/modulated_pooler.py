"""Regions of a correlation that is never stored.

RoIAlign is linear in the map and treats channels apart: a region of `Y * x` is the region of Y
times x. One gallery map then serves the regions of all queries.

Shape shorthand: B: maps, Q: queries, C: channels, R: regions of all queries, S: cells of a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..ops.correlation import correlate


@dataclass(frozen=True)
class ModulatedMap:
    """`features * kernel`, the product left to whoever needs it.

    Attributes:
        features: (B, C, H, W); one map, or one for each kernel.
        kernel: (Q, C).
    """

    features: Tensor
    kernel: Tensor

    def product(self) -> Tensor:
        """(Q, C, H, W)."""
        return correlate(self.features.expand(len(self.kernel), -1, -1, -1), self.kernel)

    def float(self) -> ModulatedMap:
        """In single precision."""
        return ModulatedMap(self.features.float(), self.kernel.float())


class ModulatedPooler(nn.Module):
    """A ROIPooler that also takes `ModulatedMap`s as levels."""

    def __init__(self, pooler: ROIPooler):
        """
        Args:
            pooler: Detectron2's, which pools the maps.
        """
        super().__init__()
        self.pooler = pooler

    def forward(self, levels: list[Tensor] | list[ModulatedMap], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            levels: of each level the maps.
            box_lists: of each query the boxes, in pixels of the network's input.

        Returns:
            (R, C, S, S).
        """
        if not isinstance(levels[0], ModulatedMap):
            return self.pooler(levels, box_lists)
        maps = [one.features for one in levels]
        is_shared = len(maps[0]) == 1 < len(box_lists)
        regions = self.pooler(maps, [Boxes.cat(box_lists)] if is_shared else box_lists)
        counts = torch.tensor([len(one) for one in box_lists], device=regions.device)
        of_query = torch.arange(len(box_lists), device=regions.device).repeat_interleave(counts)
        kernels = torch.stack([one.kernel for one in levels])
        return regions * kernels[self._levels(box_lists), of_query][:, :, None, None]

    def _levels(self, box_lists: list[Boxes]) -> Tensor:
        """(R,) the level that each region is taken from."""
        pooler = self.pooler
        return assign_boxes_to_levels(
            box_lists,
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
