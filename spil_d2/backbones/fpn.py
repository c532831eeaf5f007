"""A feature pyramid on res2 to res4, for weights without res5."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_resnet_backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool


class _PooledP4(LastLevelMaxPool):
    """P5 as the subsampled P4 (Detectron2's makes P6 of P5)."""

    def __init__(self) -> None:
        super().__init__()
        self.in_feature = "p4"


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_c4_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`fast` preset: P2 to P4 from res2 to res4, and P5 by pooling (specification, Section 1.3)."""
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=_PooledP4(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
