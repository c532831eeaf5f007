"""DASR: salient regions from peaks of a class-agnostic response (Xiao et al., ACM TOMM 2022)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone
from torch import Tensor
from torch.nn import functional as F
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


@dataclass(frozen=True)
class PeakResponse:
    """A forward pass that relevance can go back through.

    Attributes:
        size: (height, width) of the picture in pixels.
        pixels: (1, 3, H, W) what went into the backbone; requires a gradient.
        features: the backbone's maps.
        response: (1, h, w), the channel mean of one of them.
        peaks: (P, 2) int64 (row, column) on it, P >= 1.
    """

    size: tuple[int, int]
    pixels: Tensor
    features: Mapping[str, Tensor]
    response: Tensor
    peaks: Tensor


@SEARCH_ENGINE_REGISTRY.register()
class DASR(PooledSearchEngine):
    """Peaks of the channel mean of `response_layer`, each traced back to a box.

    `stop_at` names an earlier map of the backbone at which the tracing ends; "input" traces to the
    pixels, as published. A box is made of the most salient pixels, and which pixels of a coarse
    cell those are is mostly what the first layers make of relevance that is equal everywhere. With
    `detail_layer` the coarse saliency of each peak is multiplied by that one map, and its boxes are
    nearly those of the pixels.
    """

    DETAIL_LAYER: ClassVar[str] = ""

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
        detail_layer: str = "",
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
            detail_layer: the feature that ends the first layers, as "stem", where `stop_at` is a
                later one; "" for saliency as coarse as the map.
            nms_variant: DASR*: all local maxima (no mean filter), then box NMS at IoU 0.3 with the
                peak value as its score.
            percentile: of the saliency above which pixels make the box.
            add_whole_image: one more region, the whole picture.
            bf16: query forward passes and the relevance between layers in bfloat16.
            normalization: `pixel_mean`, `pixel_std`, `input_format`.
        """
        if detail_layer and stop_at == INPUT:
            raise ValueError(
                f"the detail of {detail_layer!r} is for relevance that stops early: with "
                "SEARCH.DASR.STOP_AT 'input' use the engine DASR"
            )
        needed = [one for one in (response_layer, stop_at, detail_layer) if one not in ("", INPUT)]
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
        self.detail_layer = detail_layer
        self.nms_variant, self.percentile = nms_variant, percentile
        self.add_whole_image = add_whole_image

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        dasr, common = cfg.SEARCH.DASR, read_common_config(cfg)
        response = existing_resnet_layer(cfg, dasr.RESPONSE_LAYER)
        layers = {response, *common["descriptor_layers"], dasr.STOP_AT, cls.DETAIL_LAYER}
        return {
            "backbone": build_frozen_backbone(cfg, sorted(layers - {INPUT, ""})),
            "response_layer": response,
            "stop_at": dasr.STOP_AT,
            "detail_layer": cls.DETAIL_LAYER,
            "nms_variant": dasr.NMS_VARIANT,
            "add_whole_image": dasr.ADD_WHOLE_IMAGE,
            **common,
        }

    def regions(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """See `SearchEngine.regions`; the saliency of a region is its peak's response."""
        return [self._regions_of(image) for image in images]

    def respond(self, image: np.ndarray) -> PeakResponse:
        """The forward pass of a picture (H, W, 3) uint8 RGB, and its peaks."""
        pixels = self._prepare(image).requires_grad_(True)
        with torch.enable_grad(), relevance_rule():
            features = self.backbone(pixels)
            response = features[self.response_layer].mean(dim=1)
        peaks = find_peaks(response.detach()[0], mean_filter=not self.nms_variant)
        return PeakResponse((image.shape[0], image.shape[1]), pixels, features, response, peaks)

    def trace(self, found: PeakResponse) -> Tensor:
        """(P, 4) boxes in pixels of the picture: each peak's, all traced back together."""
        at = found.pixels if self.stop_at == INPUT else found.features[self.stop_at]
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        relevance = peak_relevance(found.response, found.peaks, at, dtype=dtype)
        saliency = relevance.float().sum(dim=1).relu()
        if self.detail_layer:
            detail = self._detail(found)
            size = (detail.shape[0], detail.shape[1])
            saliency = F.interpolate(saliency[None], size, mode="bilinear")[0] * detail
        return self.boxes(saliency, found.size)

    def boxes(self, saliency: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes out of saliency.

        Args:
            saliency: (P, h, w), of pixels or of a map's cells that cover the picture.
            size: (height, width) of the picture.

        Returns:
            (P, 4) XYXY_ABS in its pixels.
        """
        boxes = two_sigma_box(saliency, self.percentile)
        scale = boxes.new_tensor([size[1] / saliency.shape[2], size[0] / saliency.shape[1]] * 2)
        return boxes * scale

    def _detail(self, found: PeakResponse) -> Tensor:
        """(H, W): saliency of the pixels when each cell of `detail_layer` has relevance 1."""
        cells = found.features[self.detail_layer]
        ones = torch.ones_like(cells)
        (detail,) = torch.autograd.grad(cells, found.pixels, ones, retain_graph=True)
        return detail[0].sum(dim=0).relu()

    def _regions_of(self, image: np.ndarray) -> Regions:
        size = image.shape[:2]
        responded = self.respond(image)
        response, peaks = responded.response.detach(), responded.peaks
        found = self.trace(responded)
        peak_values = response[0][peaks[:, 0], peaks[:, 1]]
        if self.nms_variant:
            kept = nms(found, peak_values, _NMS_IOU)
            found, peak_values = found[kept], peak_values[kept]
        boxes, values = found.cpu().numpy(), peak_values.cpu().numpy()
        if self.add_whole_image:
            boxes = np.concatenate([boxes, [[0, 0, size[1], size[0]]]])
            values = np.append(values, response.mean().item())
        boxes = np.ascontiguousarray(boxes, np.float32)
        embeddings = self._pool(responded.features, 0, boxes, size)
        return Regions(boxes, values.astype(np.float32), embeddings)


@SEARCH_ENGINE_REGISTRY.register()
class DASRFast(DASR):
    """DASR with relevance that stops early, and the pixels' share in it from the stem alone."""

    DETAIL_LAYER = "stem"
