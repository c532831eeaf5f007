"""Backbones that Detectron2 lacks, and where their weights are found. Importing registers them."""

from .classifier import load_classifier
from .densenet import DenseNet121, build_densenet121_backbone
from .efficientnet_lite import EfficientNetLite, build_efficientnet_lite_backbone
from .fpn import build_resnet_fpn_c4_backbone
from .frozen import build_frozen_backbone, existing_resnet_layer, load_all_weights
from .fused import FusedLevels, build_fused_efficientnet_lite_backbone
from .timm_vit import TimmViT
from .weights import resolve_weights

__all__ = [
    "DenseNet121",
    "EfficientNetLite",
    "FusedLevels",
    "TimmViT",
    "build_densenet121_backbone",
    "build_efficientnet_lite_backbone",
    "build_frozen_backbone",
    "build_fused_efficientnet_lite_backbone",
    "build_resnet_fpn_c4_backbone",
    "existing_resnet_layer",
    "load_all_weights",
    "load_classifier",
    "resolve_weights",
]
