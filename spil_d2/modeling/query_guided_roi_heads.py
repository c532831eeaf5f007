"""GlobalTrack's QG-RCNN: RoI heads that compare each region with the query's.

Shape shorthand: B: gallery maps, Q: queries, R: RoIs of all queries, C: channels of the levels,
O: channels of the modulated regions, S: cells of a side of a region.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes
from torch import Tensor, nn

from .correlation_head import level_shapes
from .globaltrack_head import QUERY_REGION, RoIModulator
from .query_roi_heads import QueryStandardROIHeads


class QueryGuidedPooler(nn.Module):
    """Pools regions of the raw gallery maps and modulates them by their queries' regions.

    Where all queries look at one image, its maps are not copied for each of them.
    """

    def __init__(self, pooler: ROIPooler, modulator: RoIModulator):
        super().__init__()
        self.pooler = pooler
        self.modulator = modulator

    def forward(self, features: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            features: the levels, each (B, C, H, W) with B = Q or 1, and last the queries' regions
                (Q, C, S, S).
            box_lists: of each query, in pixels of the network's input.

        Returns:
            (R, O, S, S).
        """
        *levels, query = features
        counts = torch.tensor([len(boxes) for boxes in box_lists], device=query.device)
        owners = torch.arange(len(box_lists), device=query.device).repeat_interleave(counts)
        on_one_image = len(levels[0]) == 1
        regions = self.pooler(levels, [Boxes.cat(box_lists)] if on_one_image else box_lists)
        return self.modulator(regions, query, owners)


@ROI_HEADS_REGISTRY.register()
class QueryGuidedROIHeads(QueryStandardROIHeads):
    """CST's RoI heads, for the correlation head "GlobalTrack".

    The mask head, which GlobalTrack does not have, has a modulator of its own.
    """

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        arguments = super()._init_box_head(cfg, _modulated_shape(cfg, input_shape))
        return _guided("box", cfg.MODEL.ROI_BOX_HEAD, arguments, cfg, input_shape)

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        if not cfg.MODEL.MASK_ON:
            return {}
        arguments = super()._init_mask_head(cfg, _modulated_shape(cfg, input_shape))
        return _guided("mask", cfg.MODEL.ROI_MASK_HEAD, arguments, cfg, input_shape)


def _query_shape(input_shape: dict[str, ShapeSpec]) -> ShapeSpec:
    if QUERY_REGION not in input_shape:
        raise ValueError(
            "ROI_HEADS.NAME QueryGuidedROIHeads needs the regions of queries: set "
            "MODEL.CORRELATION_HEAD.NAME to GlobalTrack"
        )
    return input_shape[QUERY_REGION]


def _modulated_shape(cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """Of the levels that regions are pooled from, with the width of the modulated regions."""
    channels = cfg.MODEL.GLOBALTRACK.CHANNELS or _query_shape(input_shape).channels
    return level_shapes({n: input_shape[n] for n in cfg.MODEL.ROI_HEADS.IN_FEATURES}, channels)


def _guided(
    kind: str, head: Any, arguments: dict, cfg: Any, input_shape: dict[str, ShapeSpec]
) -> dict:
    """The arguments of a standard head (`kind` "box" or "mask") with a query-guided pooler."""
    query = _query_shape(input_shape)
    if head.POOLER_RESOLUTION != query.height:
        raise ValueError(
            f"MODEL.ROI_{kind.upper()}_HEAD.POOLER_RESOLUTION is {head.POOLER_RESOLUTION}: regions "
            f"are compared cell by cell, use MODEL.QUERY.POOLER_RESOLUTION = {query.height}"
        )
    modulator = RoIModulator(query.channels, cfg.MODEL.GLOBALTRACK.CHANNELS or query.channels)
    return {
        **arguments,
        f"{kind}_in_features": [*arguments[f"{kind}_in_features"], QUERY_REGION],
        f"{kind}_pooler": QueryGuidedPooler(arguments[f"{kind}_pooler"], modulator),
    }
