"""Vision transformers of the timm library as a Detectron2 backbone: patch tokens as a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from ..utils.checkpoints import read_torch

FEATURE = "patches"


class TimmViT(Backbone):
    """The patch tokens after the last normalization, as one map "patches" (N, C, H / p, W / p).

    Input: (N, 3, H, W) RGB in [0, 1], less `mean` over `std`; H and W multiples of the patch p.
    """

    def __init__(self, name: str, weights: str | None = "") -> None:
        """Build the network.

        Args:
            name: of a transformer in timm, e.g. "vit_small_patch14_dinov2.lvd142m".
            weights: path of a checkpoint of that model; "" for timm's own, which is downloaded
                unless it lies in its cache; None for random weights.

        Raises:
            ImportError: timm is not installed.
            FileNotFoundError: the checkpoint does not exist, or cannot be downloaded.
            ValueError: timm has no such transformer.
        """
        super().__init__()
        self.network = _create(name, weights)
        if not hasattr(self.network, "patch_embed") or not hasattr(
            self.network, "forward_intermediates"
        ):
            raise ValueError(
                f"SEARCH.VIT.MODEL {name!r} is no plain vision transformer: use one of "
                "timm.list_models('vit_*')"
            )
        self._patch = int(self.network.patch_embed.patch_size[0])
        self.pixel_mean = [255.0 * value for value in self.network.pretrained_cfg["mean"]]
        self.pixel_std = [255.0 * value for value in self.network.pretrained_cfg["std"]]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W), normalized -> {"patches": (N, C, H / p, W / p)}."""
        maps = self.network.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        return {FEATURE: maps[-1]}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {FEATURE: ShapeSpec(channels=self.network.num_features, stride=self._patch)}

    @property
    def size_divisibility(self) -> int:
        return self._patch


def _create(name: str, weights: str | None) -> Any:
    """The module; what timm's transformers have beyond that is not in its type."""
    try:
        import timm
    except ImportError as error:
        raise ImportError("the ViT engine needs timm: pip install timm") from error
    if weights and not Path(weights).is_file():
        raise FileNotFoundError(
            f"SEARCH.VIT.WEIGHTS {weights!r} does not exist: give the path of a checkpoint "
            f"(.pth or .safetensors) of timm's {name!r}, or '' to download timm's own"
        )
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(
            f"timm {timm.__version__} has no model {name!r}: see timm.list_models('vit_*')"
        )
    if weights and Path(weights).suffix != ".safetensors":
        # timm reads it again; what is more than tensors is refused here.
        read_torch(weights)
    settings: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    if weights != "":
        return timm.create_model(name, checkpoint_path=weights or "", **settings)
    try:
        return timm.create_model(name, pretrained=True, **settings)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"the weights of timm's {name!r} could not be had ({error}): on a machine with a "
            "network, save them with timm.create_model(name, pretrained=True).state_dict(), copy "
            "the file here and set SEARCH.VIT.WEIGHTS to its path"
        ) from error
