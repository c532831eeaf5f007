"""Class-weighted convolutional features (Jimenez et al., BMVC 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn import functional as F

from ...backbones import build_frozen_backbone, load_classifier
from ..pooling import crops, crow_channel_weights
from .base import SEARCH_ENGINE_REGISTRY, LocalizingEngine
from .building import read_common_config
from .pooled import PartsEngine, map_boxes, whole_image_box

_THRESHOLDS = (0.01, 0.1, 0.2, 0.3, 0.4)
# Activation maps are magnified before they are cut, so that boxes are finer than cells.
_MAGNIFICATION = 8


@dataclass(frozen=True)
class _Cue:
    """A query's embedding (D,) and the classes (n,) that its box looks most like."""

    embedding: np.ndarray
    classes: Tensor


@SEARCH_ENGINE_REGISTRY.register()
class CAM(PartsEngine, LocalizingEngine):
    """A picture as the sum of its map weighted by the activation maps of its likeliest classes."""

    @configurable
    def __init__(
        self,
        *,
        weight: Tensor,
        bias: Tensor,
        num_classes: int = 64,
        num_localizing_classes: int = 2,
        **common: Any,
    ) -> None:
        """Set up CAM.

        Args:
            weight, bias: (N, C) and (N,) of the classifier of the one descriptor layer's mean.
            num_classes: N_c, likeliest classes whose vectors are summed.
            num_localizing_classes: likeliest classes of a query whose activation maps, averaged,
                give the boxes.
            common: see `PooledSearchEngine`.
        """
        super().__init__(**common)
        if not 0 < num_localizing_classes <= num_classes <= len(weight):
            raise ValueError(
                f"SEARCH.CAM: {num_localizing_classes} classes to localize by and {num_classes} "
                f"to describe with must be rising numbers of 1 ... {len(weight)}"
            )
        self.weight, self.bias = weight, bias
        self.num_classes, self.num_localizing_classes = num_classes, num_localizing_classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        classifier = load_classifier(cfg)
        return {
            **read_common_config(cfg),
            "backbone": build_frozen_backbone(cfg, [classifier.layer]),
            "descriptor_layers": [classifier.layer],
            "poolings": ["mean"],
            "layer_weights": [1.0],
            "weight": classifier.weight,
            "bias": classifier.bias,
            "num_classes": cfg.SEARCH.CAM.NUM_CLASSES,
            "num_localizing_classes": cfg.SEARCH.CAM.NUM_LOCALIZING_CLASSES,
        }

    def parts(self, crop: Tensor) -> Tensor:
        """See `PartsEngine.parts`: one vector for each of the likeliest classes of the crop."""
        maps = self._activation_maps(crop, self._likeliest(crop, self.num_classes))
        return crow_channel_weights(crop) * torch.einsum("nhw,chw->nc", maps, crop)

    def cues(self, image: np.ndarray, boxes: np.ndarray) -> list[_Cue]:
        """See `LocalizingEngine.cues`."""
        features = self._forward(self._prepare(image))
        feature_map = features[self.layer][0].float()
        embeddings = self._pool(features, 0, boxes, image.shape[:2])
        parts = crops(feature_map, map_boxes(feature_map, boxes, image.shape[:2]))
        return [
            _Cue(embedding, self._likeliest(part, self.num_localizing_classes))
            for embedding, part in zip(embeddings, parts)
        ]

    def localize(self, image: np.ndarray, cues: Sequence[_Cue]) -> np.ndarray:
        """See `LocalizingEngine.localize`.

        Candidates are the largest components of the mean activation map of the query's classes
        above some parts of its maximum; the one whose embedding is nearest to the query's wins.
        """
        features = self._forward(self._prepare(image))
        feature_map = features[self.layer][0].float()
        found = []
        for cue in cues:
            activation = self._activation_maps(feature_map, cue.classes).mean(dim=0)
            boxes = _component_boxes(activation, image)
            embeddings = self._pool(features, 0, boxes, image.shape[:2])
            found.append(boxes[np.argmax(embeddings @ cue.embedding)])
        return np.stack(found)

    def _likeliest(self, crop: Tensor, count: int) -> Tensor:
        """(count,) class ids, the likeliest first."""
        return (self.weight @ crop.mean(dim=(1, 2)) + self.bias).topk(count).indices

    def _activation_maps(self, crop: Tensor, classes: Tensor) -> Tensor:
        """(N, h, w) in [0, 1]; a flat map is 1 everywhere."""
        maps = torch.einsum("nc,chw->nhw", self.weight[classes], crop)
        low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
        return torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-12), 1.0)


def _component_boxes(activation: Tensor, image: np.ndarray) -> np.ndarray:
    """(B, 4) float32 XYXY_ABS, each once, of an activation map (h, w) over a picture."""
    size = [side * _MAGNIFICATION for side in activation.shape]
    fine = F.interpolate(activation[None, None], size=size, mode="bilinear")[0, 0].cpu().numpy()
    scale = np.tile(whole_image_box(image)[0, 2:] / np.array(size[::-1], np.float32), 2)
    boxes = set()
    for threshold in _THRESHOLDS:
        mask = (fine >= threshold * fine.max()).astype(np.uint8)
        *_, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        x, y, width, height, _ = max(statistics[1:].tolist(), key=lambda one: one[4])
        boxes.add((x, y, x + width, y + height))
    return np.array(sorted(boxes), np.float32) * scale
