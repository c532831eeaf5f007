"""RoI heads on correlated features: one foreground class, losses weighted by ω."""

from __future__ import annotations

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from torch import Tensor

from .losses import WeightedFastRCNNOutputLayers, in_ignored
from .modulated_pooler import ModulatedPooler


class IgnoreRegions:
    """RoI heads that do not take proposals in ignore regions for background (D20)."""

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        ignored: list[Boxes] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As Detectron2's; `ignored` are the ignore regions of each training image."""
        if ignored is not None:
            assert targets is not None, "ignore regions belong to training"
            proposals = [
                self._outside(*one) for one in zip(proposals, targets, ignored, strict=True)
            ]
        return super().forward(images, features, proposals, targets)

    def _outside(self, proposals: Instances, targets: Instances, ignored: Boxes) -> Instances:
        """The proposals that are positive, or not in an ignore region."""
        boxes = proposals.proposal_boxes
        _, labels = self.proposal_matcher(pairwise_iou(targets.gt_boxes, boxes))
        return proposals[(labels == 1) | ~in_ignored(boxes, ignored)]


@ROI_HEADS_REGISTRY.register()
class QueryRes5ROIHeads(IgnoreRegions, Res5ROIHeads):
    """C4 heads of the `paper` preset: RoIAlign on the correlation, then res5."""

    @classmethod
    def from_config(cls, cfg, input_shape):
        arguments = super().from_config(cfg, input_shape)
        arguments["pooler"] = ModulatedPooler(arguments["pooler"])
        width = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS * 8
        arguments["box_predictor"] = WeightedFastRCNNOutputLayers(
            cfg, ShapeSpec(channels=width, height=1, width=1)
        )
        return arguments

    @classmethod
    def _build_res5_block(cls, cfg):
        cfg = cfg.clone()
        cfg.defrost()
        if cfg.MODEL.RESNETS.RES5_NORM != "auto":
            cfg.MODEL.RESNETS.NORM = cfg.MODEL.RESNETS.RES5_NORM
        return super()._build_res5_block(cfg)

    def detect_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """`pred_boxes` and `scores` alone, without the mask head."""
        maps = [features[name] for name in self.in_features]
        regions = self._shared_roi_transform(maps, [one.proposal_boxes for one in proposals])
        found, _ = self.box_predictor.inference(
            self.box_predictor(regions.mean(dim=(2, 3))), proposals
        )
        return found


@ROI_HEADS_REGISTRY.register()
class QueryStandardROIHeads(IgnoreRegions, StandardROIHeads):
    """Heads of the `fast` and `tiny` presets: RoIAlign, then a small box head and mask head."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        arguments = super()._init_box_head(cfg, input_shape)
        arguments["box_pooler"] = ModulatedPooler(arguments["box_pooler"])
        arguments["box_predictor"] = WeightedFastRCNNOutputLayers(
            cfg, arguments["box_head"].output_shape
        )
        return arguments

    @classmethod
    def _init_mask_head(cls, cfg, input_shape):
        arguments = super()._init_mask_head(cfg, input_shape)
        if arguments:
            arguments["mask_pooler"] = ModulatedPooler(arguments["mask_pooler"])
        return arguments

    def detect_boxes(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """`pred_boxes` and `scores` alone, without the mask head."""
        return self._forward_box(features, proposals)
