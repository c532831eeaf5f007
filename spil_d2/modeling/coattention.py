"""Co-attention on a frozen network: pictures in, pseudo masks out.

The same steps serve both ways of SPIL. In each iteration: `segment(image, box, crops)`. Offline,
one direction for a query and its confident pool, applied to all of their pictures:

    principals = coattention.fit([coattention.encode(query_image)], coattention.encode_crops(crops))
    for image, box in pool:
        result = coattention.apply(coattention.encode(image), box, principals, superpixels(image))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import nn

from ..ops.coattention import (
    CoAttentionResult,
    CoAttentionSettings,
    common_direction,
    pseudo_mask,
)
from ..ops.principal_direction import PrincipalDirection
from ..ops.superpixels import Superpixels

__all__ = ["CoAttention", "CoAttentionResult", "Maps"]

Maps = tuple[torch.Tensor, ...]
"""Maps (C, h, w) of a picture: of the feature, and of the finer one if there is one."""

_DIVISOR = 32


class CoAttention:
    """Pseudo masks from a frozen feature extractor.

    Not a module: the frozen weights must not go into the checkpoints of the model that it teaches.
    It runs where the extractor is.
    """

    @configurable
    def __init__(
        self,
        *,
        feature_extractor: nn.Module,
        feature: str,
        fine_feature: str = "",
        settings: CoAttentionSettings,
        superpixels: Superpixels,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        min_size: int = 600,
        max_size: int = 1000,
    ) -> None:
        """Freeze the extractor and keep the settings.

        Args:
            feature_extractor: (N, 3, h, w) normalized pictures -> dict of maps (N, C, h', w'),
                sides multiples of 32. It is set to evaluation and its gradients are switched off,
                so it must not be the network in training.
            feature: the map to use.
            fine_feature: a finer map, which the first one gates (DDT+); "" for none.
            settings: how a map becomes a mask.
            superpixels: how pictures are cut.
            pixel_mean, pixel_std: of the extractor, 3 values on the 0-255 scale in the order of
                `input_format`.
            input_format: "RGB" or "BGR", the order of channels that the extractor expects.
            min_size, max_size: shorter and longest side of whole pictures, in pixels; a `min_size`
                of 0 keeps their own size, as in Detectron2.
        """
        if input_format not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {input_format!r}: use RGB or BGR for co-attention")
        self.feature_extractor = feature_extractor.eval().requires_grad_(False)
        self.features = (feature, fine_feature) if fine_feature else (feature,)
        self.settings = settings
        self.superpixels = superpixels
        self.input_format = input_format
        self.min_size, self.max_size = min_size, max_size
        parameter = next(feature_extractor.parameters())
        self._mean = torch.tensor(list(pixel_mean)).to(parameter)[:, None, None]
        self._std = torch.tensor(list(pixel_std)).to(parameter)[:, None, None]

    @classmethod
    def from_config(cls, cfg: CfgNode, feature_extractor: nn.Module) -> dict[str, Any]:
        """Translate the keys; `feature_extractor` is a frozen copy of its own."""
        node = cfg.COATTENTION
        return {
            "feature_extractor": feature_extractor,
            "feature": node.FEATURE,
            "fine_feature": node.FINE_FEATURE,
            "settings": CoAttentionSettings(
                threshold=node.THRESHOLD,
                normalize=node.NORMALIZE,
                pca_on=node.PCA_ON,
                weighted=node.WEIGHTED,
                min_fill=node.MIN_FILL,
                extras=node.EXTRAS,
                extra_min_mean=node.EXTRA_MIN_MEAN,
            ),
            "superpixels": Superpixels(
                method=node.SUPERPIXELS.METHOD,
                scale=node.SUPERPIXELS.SCALE,
                sigma=node.SUPERPIXELS.SIGMA,
                min_size=node.SUPERPIXELS.MIN_SIZE,
                min_size_fraction=node.SUPERPIXELS.MIN_SIZE_FRACTION,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
        }

    def segment(
        self,
        image: np.ndarray,
        box: Sequence[float],
        crops: Sequence[np.ndarray],
        superpixels: np.ndarray | None = None,
    ) -> CoAttentionResult:
        """The pseudo mask of one picture, from it and crops of the same instance.

        Args:
            image: (H, W, 3) uint8 RGB.
            box: of the instance, XYXY_ABS in pixels of `image`.
            crops: (S, S, 3) uint8 RGB each.
            superpixels: (H, W) labels of `image` if the caller has them; computed if None.
        """
        maps = self.encode(image)
        principals = self.fit([maps], self.encode_crops(crops))
        labels = self.superpixels(image) if superpixels is None else superpixels
        return self.apply(maps, box, principals, labels)

    def encode(self, image: np.ndarray) -> Maps:
        """Maps of a whole picture (H, W, 3) uint8 RGB, resized to the test size."""
        height, width = image.shape[:2]
        scale = 1.0
        if self.min_size > 0:
            scale = min(self.min_size / min(height, width), self.max_size / max(height, width))
        return self._forward([_resize(image, height * scale, width * scale)])[0]

    def encode_crops(self, crops: Sequence[np.ndarray]) -> list[Maps]:
        """Maps of crops (S, S, 3) uint8 RGB, each at its own size, rounded to 32 pixels."""
        resized = [_resize(crop, crop.shape[0], crop.shape[1]) for crop in crops]
        if len({crop.shape for crop in resized}) == 1:
            return self._forward(resized)
        return [self._forward([crop])[0] for crop in resized]

    def fit(
        self, image_maps: Sequence[Maps], crop_maps: Sequence[Maps]
    ) -> list[PrincipalDirection | None]:
        """What the pictures have in common, for each of their maps; see `common_direction`."""
        return [
            common_direction(
                [maps[level] for maps in image_maps],
                [maps[level] for maps in crop_maps],
                self.settings.pca_on,
                self.settings.weighted,
            )
            for level in range(len(self.features))
        ]

    def apply(
        self,
        maps: Maps,
        box: Sequence[float],
        principals: Sequence[PrincipalDirection | None],
        superpixels: np.ndarray,
    ) -> CoAttentionResult:
        """The mask of a picture by its maps and labels (H, W); see `pseudo_mask`."""
        fine = None
        if len(maps) > 1 and principals[1] is not None:
            fine = maps[1], principals[1]
        return pseudo_mask(maps[0], box, principals[0], superpixels, self.settings, fine)

    @torch.no_grad()
    def _forward(self, images: Sequence[np.ndarray]) -> list[Maps]:
        batch = torch.from_numpy(np.stack(images)).to(self._mean.device).permute(0, 3, 1, 2)
        if self.input_format == "BGR":
            batch = batch.flip(1)
        maps = self.feature_extractor((batch.to(self._mean.dtype) - self._mean) / self._std)
        for key, name in zip(("FEATURE", "FINE_FEATURE"), self.features):
            if name not in maps:
                raise KeyError(
                    f"COATTENTION.{key} is {name!r}, but the feature extractor returns "
                    f"{list(maps)}: use one of these or add it to the extractor's OUT_FEATURES"
                )
        return list(zip(*(maps[name] for name in self.features)))


def _resize(image: np.ndarray, height: float, width: float) -> np.ndarray:
    """Resizes (bilinear) to the multiples of 32 nearest to a height and width in pixels.

    So a map covers the picture without padding, at the price of a stretch by less than 16 pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    sides = [max(_DIVISOR, round(side / _DIVISOR) * _DIVISOR) for side in (width, height)]
    shrinks = sides[0] * sides[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, sides, interpolation=method)
