"""DenseNet-121 (torchvision's) as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ..utils.checkpoints import read_state
from .stages import run_stages
from .weights import resolve_weights

SHARED_WEIGHTS = "densenet121_imagenet_fp16.pth"

_STAGES = {
    "stem": ("conv0", "norm0", "relu0", "pool0"),
    "c2": ("denseblock1",),
    "c3": ("transition1", "denseblock2"),
    "c4": ("transition2", "denseblock3"),
    "c5": ("transition3", "denseblock4", "norm5"),
}
_CHANNELS = {"stem": 64, "c2": 256, "c3": 512, "c4": 1024, "c5": 1024}
_STRIDES = {"stem": 4, "c2": 4, "c3": 8, "c4": 16, "c5": 32}


class DenseNet121(Backbone):
    """DenseNet-121 with frozen batch normalization statistics.

    Input: (N, 3, H, W) RGB in [0, 1] less the ImageNet mean over its standard deviation. "c2" to
    "c4" are the outputs of the dense blocks; "c5" is the rectified map that the classifier pools.
    """

    @configurable
    def __init__(
        self,
        *,
        weights: str | None = None,
        out_features: Sequence[str] = ("c4", "c5"),
        freeze_at: int = 0,
    ) -> None:
        """Build the network.

        Args:
            weights: path of a state dict with torchvision's names (any float type); "" to look in
                the shared folder; None for random weights.
            out_features: names among "stem", "c2", "c3", "c4", "c5".
            freeze_at: stages without gradient: 0 none, 1 the stem, ..., 5 everything.
        """
        super().__init__()
        if not out_features or set(out_features) - set(_STAGES):
            raise ValueError(f"OUT_FEATURES {list(out_features)}: use names among {list(_STAGES)}")
        network = torchvision.models.densenet121(weights=None)
        if weights is not None:
            _load(network, resolve_weights(weights, shared_name=SHARED_WEIGHTS))
        self._out_features = [name for name in _STAGES if name in out_features]
        self._out_feature_channels = dict(_CHANNELS)
        self._out_feature_strides = dict(_STRIDES)
        self._stages = list(_STAGES)[: list(_STAGES).index(self._out_features[-1]) + 1]
        # Frozen BN returns a new tensor, so the library's in-place ReLU is safe.
        features = FrozenBatchNorm2d.convert_frozen_batchnorm(network.features)
        for index, name in enumerate(self._stages):
            layers = [getattr(features, layer) for layer in _STAGES[name]]
            if name == "c5":
                layers.append(nn.ReLU())
            stage = nn.Sequential(*layers)
            self.add_module(name, stage.requires_grad_(index >= freeze_at))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
        return {
            "weights": cfg.MODEL.DENSENET.WEIGHTS,
            "out_features": cfg.MODEL.DENSENET.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The maps named in `out_features`, each (N, C, H / stride, W / stride)."""
        return run_stages(self, self._stages, x, self._out_features)

    @property
    def size_divisibility(self) -> int:
        return 32


@BACKBONE_REGISTRY.register()
def build_densenet121_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> DenseNet121:
    """The DenseNet-121 that `cfg.MODEL.DENSENET` describes."""
    return DenseNet121(cfg, input_shape)


def _load(network: nn.Module, path: str) -> None:
    state = read_state(path)
    floats = {name: one.float() if one.is_floating_point() else one for name, one in state.items()}
    result = network.load_state_dict(floats, strict=False)
    missing = [name for name in result.missing_keys if not name.startswith("classifier.")]
    if missing:
        raise ValueError(
            f"{path} is not a DenseNet-121 with torchvision's names: {len(missing)} tensors are "
            f"missing, the first is {missing[0]}"
        )
