"""One-shot FSOD's multi-relation detector (Fan et al., CVPR 2020; specification, section 4).

Shape shorthand: Q: queries, R: RoIs of all queries, C: channels of the levels, S: cells of a side
of their regions, D: width of a relation.

The first layer of the global and of the patch relation takes RoI and query side by side. It is
applied to each of them alone, once a query, and the results are added: the same numbers without
a copy of the query's region for each of its RoIs.
"""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from .globaltrack_head import QUERY_REGION
from .losses import WeightedFastRCNNOutputLayers
from .query_guided_roi_heads import QueryGuidedPooler
from .query_roi_heads import QueryRes5ROIHeads, QueryStandardROIHeads

MIN_CELLS = 5
"""The patch relation's average and convolution each take one cell from every side."""


class GlobalRelation(nn.Module):
    """Two fully connected layers on the means of RoI and query."""

    def __init__(self, width: int, channels: int):
        """
        Args:
            width: C.
            channels: D.
        """
        super().__init__()
        self.roi = nn.Linear(width, channels)
        self.query = nn.Linear(width, channels, bias=False)
        self.out = nn.Linear(channels, channels)
        _initialize(self.roi, self.query, self.out)

    def forward(self, regions: Tensor, query: Tensor, owners: Tensor) -> Tensor:
        """
        Args:
            regions: (R, C, S, S).
            query: (Q, C, S, S).
            owners: (R,) int64, the query of each RoI.

        Returns:
            (R, D).
        """
        means = self.roi(regions.mean(dim=(2, 3))) + self.query(query.mean(dim=(2, 3)))[owners]
        return F.relu(self.out(F.relu(means)))


class LocalRelation(nn.Module):
    """Depth-wise correlation of RoI and query, after one 1x1 convolution of both.

    Divided by the number of cells, so that its scale does not hang on S.
    """

    def __init__(self, width: int, channels: int):
        """
        Args:
            width: C.
            channels: D.
        """
        super().__init__()
        self.conv = nn.Conv2d(width, channels, 1, bias=False)
        _initialize(self.conv)

    def forward(self, regions: Tensor, query: Tensor, owners: Tensor) -> Tensor:
        """Arguments and returns as in `GlobalRelation.forward`."""
        product = self.conv(regions) * self.conv(query)[owners]
        return F.relu(product.mean(dim=(2, 3)))


class PatchRelation(nn.Module):
    """RoI and query side by side: 1x1 convolution, 3x3 average, 3x3 and 1x1 convolution, mean."""

    def __init__(self, width: int, channels: int):
        """
        Args:
            width: C.
            channels: D; a quarter of it inside, as FSOD has.
        """
        super().__init__()
        inside = max(channels // 4, 1)
        self.roi = nn.Conv2d(width, inside, 1)
        self.query = nn.Conv2d(width, inside, 1, bias=False)
        self.conv = nn.Conv2d(inside, inside, 3)
        self.out = nn.Conv2d(inside, channels, 1)
        _initialize(self.roi, self.query, self.conv, self.out)

    def forward(self, regions: Tensor, query: Tensor, owners: Tensor) -> Tensor:
        """Arguments and returns as in `GlobalRelation.forward`; S is at least `MIN_CELLS`."""
        patches = F.relu(self.roi(regions) + self.query(query)[owners])
        patches = F.relu(self.conv(F.avg_pool2d(patches, 3, stride=1)))
        return F.relu(self.out(patches)).mean(dim=(2, 3))


class MultiRelation(nn.Module):
    """The three relations of each RoI with its query, side by side."""

    def __init__(self, width: int, channels: int, res5: nn.Module | None = None):
        """
        Args:
            width: C of the regions that are compared.
            channels: D.
            res5: C4's last block, applied to RoIs and queries alike; None compares them as they
                are pooled.
        """
        super().__init__()
        self.res5 = nn.Identity() if res5 is None else res5
        self.relations = nn.ModuleList(
            [
                GlobalRelation(width, channels),
                LocalRelation(width, channels),
                PatchRelation(width, channels),
            ]
        )

    def forward(self, regions: Tensor, query: Tensor, owners: Tensor) -> Tensor:
        """
        Args:
            regions: (R, C', S', S') pooled from raw gallery maps.
            query: (Q, C', S', S').
            owners: (R,) int64, whose region each of them is compared with.

        Returns:
            (R, 3 D): global, local, patch.
        """
        regions, query = self.res5(regions), self.res5(query)
        return torch.cat([one(regions, query, owners) for one in self.relations], dim=1)


class MultiRelationOutputLayers(WeightedFastRCNNOutputLayers):
    """Classes by the sum of the relations' scores, boxes by the patch relation alone.

    The sum of a linear layer for each relation is one linear layer on the three side by side.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, **kwargs):
        """
        Args:
            input_shape: of the three relations, 3 D channels.
        """
        super().__init__(input_shape, **kwargs)
        self.width = input_shape.channels // 3
        self.bbox_pred = nn.Linear(self.width, self.bbox_pred.out_features)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.bbox_pred.bias)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return super().from_config(cfg, input_shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 3 D) relations -> logits (R, 2) and deltas (R, 4)."""
        return self.cls_score(x), self.bbox_pred(x[:, -self.width :])


@ROI_HEADS_REGISTRY.register()
class MultiRelationROIHeads(QueryStandardROIHeads):
    """FSOD's RoI heads, for the correlation head "AttentionRPN"; they have no masks.

    RoIs are sampled as Detectron2 does, from an image's map with its own query and from the one
    with a foreign query (FSOD's two-way contrastive training, there 1:2:1 of foreground, background
    and foreign pairs).
    """

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        head, keys = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.FSOD
        names = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        query = _check(cfg, input_shape)
        res5, width, size = None, query.channels, query.height
        if keys.RES5:
            res5, width = QueryRes5ROIHeads._build_res5_block(cfg)
            size = (size + 1) // 2
        if size < MIN_CELLS:
            raise ValueError(
                f"FSOD compares regions of {size} x {size} cells: MODEL.QUERY.POOLER_RESOLUTION "
                f"must give at least {MIN_CELLS}, after res5 where that is on"
            )
        channels = keys.CHANNELS or width
        pooler = ROIPooler(
            output_size=head.POOLER_RESOLUTION,
            scales=[1 / input_shape[name].stride for name in names],
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
            pooler_type=head.POOLER_TYPE,
        )
        return {
            "box_in_features": [*names, QUERY_REGION],
            "box_pooler": QueryGuidedPooler(pooler, MultiRelation(width, channels, res5)),
            "box_head": nn.Identity(),
            "box_predictor": MultiRelationOutputLayers(cfg, ShapeSpec(3 * channels)),
        }


def _check(cfg, input_shape: dict[str, ShapeSpec]) -> ShapeSpec:
    """The shape of the queries' regions.

    Raises:
        ValueError: the keys do not go with FSOD's heads.
    """
    if QUERY_REGION not in input_shape:
        raise ValueError(
            "ROI_HEADS.NAME MultiRelationROIHeads needs the regions of queries: set "
            "MODEL.CORRELATION_HEAD.NAME to AttentionRPN"
        )
    if cfg.MODEL.MASK_ON:
        raise ValueError("MultiRelationROIHeads has no mask head: set MODEL.MASK_ON to False")
    query = input_shape[QUERY_REGION]
    if cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION != query.height:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION is {cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION}: "
            f"regions are compared cell by cell, use MODEL.QUERY.POOLER_RESOLUTION = {query.height}"
        )
    return query


def _initialize(*layers: nn.Linear | nn.Conv2d) -> None:
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
