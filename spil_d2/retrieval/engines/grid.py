"""The cheap baseline: the whole picture and sliding windows of a few scales."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone

from ...backbones import build_frozen_backbone
from ..whitening import Whitening
from .base import SEARCH_ENGINE_REGISTRY, Regions
from .building import read_common_config
from .pooled import PooledSearchEngine

_SCALES = ((2 / 3, 3), (1 / 2, 3))
"""Side of the windows as a fraction of the picture's, and windows per axis."""


@SEARCH_ENGINE_REGISTRY.register()
class Grid(PooledSearchEngine):
    """19 regions a picture: the whole, 3 x 3 windows of 2/3 of each side and 3 x 3 of 1/2."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        descriptor_layers: Sequence[str],
        longer_side: int = 512,
        poolings: Sequence[str] = ("mean",),
        layer_weights: Sequence[float] = (1.0,),
        whitening: Whitening | None = None,
        bf16: bool = False,
        **normalization: object,
    ) -> None:
        """Set up the engine; see `PooledSearchEngine` for the arguments."""
        super().__init__(
            backbone=backbone,
            descriptor_layers=descriptor_layers,
            longer_side=longer_side,
            poolings=poolings,
            layer_weights=layer_weights,
            whitening=whitening,
            bf16=bf16,
            **normalization,  # type: ignore[arg-type]
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        common = read_common_config(cfg)
        return {"backbone": build_frozen_backbone(cfg, common["descriptor_layers"]), **common}

    def regions(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """See `SearchEngine.regions`; the saliency of a region is the part of the picture it has.

        Pictures of one size after resizing go through the backbone together.
        """
        groups: dict[tuple[int, ...], list[tuple[int, torch.Tensor]]] = defaultdict(list)
        for position, image in enumerate(images):
            pixels = self._prepare(image)
            groups[tuple(pixels.shape)].append((position, pixels))
        found: dict[int, Regions] = {}
        for members in groups.values():
            with torch.no_grad():
                features = self._forward(torch.cat([pixels for _, pixels in members]))
            for item, (position, _) in enumerate(members):
                found[position] = self._windows(features, item, images[position].shape[:2])
        return [found[position] for position in range(len(images))]

    def _windows(
        self, features: Mapping[str, torch.Tensor], item: int, size: tuple[int, int]
    ) -> Regions:
        fractions = grid_boxes()
        boxes = fractions * np.array([size[1], size[0]] * 2, np.float32)
        sides = fractions[:, 2:] - fractions[:, :2]
        return Regions(boxes, sides.prod(axis=1), self._pool(features, item, boxes, size))


def grid_boxes() -> np.ndarray:
    """(19, 4) float32 XYXY in fractions of the picture's sides."""
    boxes = [(0.0, 0.0, 1.0, 1.0)]
    for side, count in _SCALES:
        starts = np.linspace(0, 1 - side, count)
        boxes += [(x, y, x + side, y + side) for y in starts for x in starts]
    return np.array(boxes, np.float32)
