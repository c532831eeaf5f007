"""DASR: salient regions from peaks of a class-agnostic response (Xiao et al., ACM TOMM 2022)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone
from torch import Tensor
from torchvision.ops import nms

from ...backbones import build_frozen_backbone, existing_resnet_layer
from ...ops.boxes import two_sigma_box
from ...ops.relevance import find_peaks, peak_relevance, relevance_rule
from ..whitening import Whitening
from .base import SEARCH_ENGINE_REGISTRY, Regions
from .building import read_common_config
from .pooled import PooledSearchEngine

logger = logging.getLogger(__name__)

INPUT = "input"
_NMS_IOU = 0.3


@SEARCH_ENGINE_REGISTRY.register()
class DASR(PooledSearchEngine):
    """Peaks of the channel mean of `response_layer`, each traced back to a box.

    `stop_at` names an earlier map of the backbone at which the tracing ends (the fast variant);
    "input" traces to the pixels, as published.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        response_layer: str,
        descriptor_layers: Sequence[str],
        longer_side: int = 512,
        poolings: Sequence[str] = ("mean",),
        layer_weights: Sequence[float] = (1.0,),
        whitening: Whitening | None = None,
        stop_at: str = INPUT,
        nms_variant: bool = False,
        percentile: float = 95.0,
        add_whole_image: bool = False,
        bf16: bool = False,
        **normalization: object,
    ) -> None:
        """Set up DASR.

        Args:
            backbone, descriptor_layers, longer_side, poolings, layer_weights, whitening: see
                `PooledSearchEngine`.
            response_layer: rectified map whose channel mean is the response.
            stop_at: "input", or a feature of the backbone before `response_layer`.
            nms_variant: DASR*: all local maxima (no mean filter), then box NMS at IoU 0.3 with the
                peak value as its score.
            percentile: of the saliency above which pixels make the box.
            add_whole_image: one more region, the whole picture.
            bf16: query forward passes and the relevance between layers in bfloat16.
            normalization: `pixel_mean`, `pixel_std`, `input_format`.
        """
        needed = [response_layer] + ([stop_at] if stop_at != INPUT else [])
        super().__init__(
            backbone=backbone,
            descriptor_layers=descriptor_layers,
            longer_side=longer_side,
            poolings=poolings,
            layer_weights=layer_weights,
            whitening=whitening,
            bf16=bf16,
            layers=needed,
            **normalization,
        )
        self.response_layer, self.stop_at = response_layer, stop_at
        self.nms_variant, self.percentile = nms_variant, percentile
        self.add_whole_image = add_whole_image

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        dasr, common = cfg.SEARCH.DASR, read_common_config(cfg)
        response = existing_resnet_layer(cfg, dasr.RESPONSE_LAYER)
        layers = {response, *common["descriptor_layers"], dasr.STOP_AT} - {INPUT}
        return {
            "backbone": build_frozen_backbone(cfg, sorted(layers)),
            "response_layer": response,
            "stop_at": dasr.STOP_AT,
            "nms_variant": dasr.NMS_VARIANT,
            "add_whole_image": dasr.ADD_WHOLE_IMAGE,
            **common,
        }

    def regions(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """See `SearchEngine.regions`; the saliency of a region is its peak's response."""
        return [self._regions_of(image) for image in images]

    def _regions_of(self, image: np.ndarray) -> Regions:
        size = image.shape[:2]
        pixels = self._prepare(image).requires_grad_(True)
        with torch.enable_grad(), relevance_rule():
            features = self.backbone(pixels)
            response = features[self.response_layer].mean(dim=1)
        peaks = find_peaks(response.detach()[0], mean_filter=not self.nms_variant)
        at = pixels if self.stop_at == INPUT else features[self.stop_at]
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        relevance = peak_relevance(response, peaks, at, dtype=dtype)
        found = self._boxes(relevance.float().sum(dim=1).relu(), size)
        peak_values = response.detach()[0][peaks[:, 0], peaks[:, 1]]
        if self.nms_variant:
            kept = nms(found, peak_values, _NMS_IOU)
            found, peak_values = found[kept], peak_values[kept]
        boxes, values = found.cpu().numpy(), peak_values.cpu().numpy()
        if self.add_whole_image:
            boxes = np.concatenate([boxes, [[0, 0, size[1], size[0]]]])
            values = np.append(values, response.detach().mean().item())
        boxes = np.ascontiguousarray(boxes, np.float32)
        return Regions(boxes, values.astype(np.float32), self._pool(features, 0, boxes, size))

    def _boxes(self, saliency: Tensor, size: tuple[int, int]) -> Tensor:
        """(P, 4) boxes in pixels of the picture of `size` (height, width)."""
        boxes = two_sigma_box(saliency, self.percentile)
        height, width = size
        scale = boxes.new_tensor([width / saliency.shape[2], height / saliency.shape[1]] * 2)
        return boxes * scale
