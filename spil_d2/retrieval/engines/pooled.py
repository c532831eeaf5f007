"""What engines that pool feature maps of a frozen backbone over boxes have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import Backbone
from torch import Tensor
from torch.nn import functional as F

from ...backbones import build_frozen_backbone
from ..pooling import POOLINGS, crops, normalize, pool_boxes
from ..whitening import Whitening
from .base import Regions, SearchEngine
from .building import read_common_config

_DEFAULT_MULTIPLE = 32


class PooledSearchEngine(SearchEngine):
    """Resizes a picture, runs the backbone, pools `descriptor_layers` over the boxes of `propose`.

    An engine is a backbone, a pooling and a set of boxes; the last is what most subclasses add.
    A picture is resized, not padded, to multiples of the backbone's stride: its aspect ratio moves
    by a few percent, and no border is there to find peaks on.
    """

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
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
        bf16: bool = False,
        layers: Sequence[str] = (),
    ) -> None:
        """Set up the engine; the backbone is frozen and put in eval mode.

        Args:
            backbone: whose outputs hold `descriptor_layers` and `layers`.
            descriptor_layers: names of the maps that are pooled.
            longer_side: pixels that the longer side is resized to.
            poolings: names in `pooling.POOLINGS`, for each of `descriptor_layers`.
            layer_weights: share of each of them in a cosine similarity; they sum to 1.
            whitening: applied to the pooled vectors.
            pixel_mean, pixel_std: of the backbone, in `input_format` order, on the 0-255 scale.
            input_format: "RGB" or "BGR", what the backbone was trained on.
            bf16: forward passes in bfloat16.
            layers: further maps that a subclass needs.
        """
        known = backbone.output_shape()
        for name in (*descriptor_layers, *layers):
            if name not in known:
                raise ValueError(f"the backbone has no feature {name!r}: it has {list(known)}")
        if not set(poolings) <= set(POOLINGS):
            raise ValueError(f"unknown pooling among {list(poolings)}: use {POOLINGS}")
        if not len(descriptor_layers) == len(poolings) == len(layer_weights) > 0:
            raise ValueError(
                f"{len(descriptor_layers)} descriptor layers, {len(poolings)} poolings and "
                f"{len(layer_weights)} weights: give one pooling and one weight for each layer"
            )
        if min(layer_weights) < 0 or abs(sum(layer_weights) - 1) > 1e-6:
            raise ValueError(f"layer weights {list(layer_weights)} must be >= 0 and sum to 1")
        if input_format not in ("RGB", "BGR"):
            raise ValueError(f"input format {input_format!r}: use 'RGB' or 'BGR'")
        # Channels last is several times as fast for depth-wise convolutions on a CPU.
        self.backbone = backbone.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.descriptors = list(zip(descriptor_layers, poolings, layer_weights))
        self.longer_side = longer_side
        self.whitening, self.bf16 = whitening, bf16
        self._is_bgr = input_format == "BGR"
        self._device = next(backbone.parameters()).device
        self._mean = torch.tensor(pixel_mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(pixel_std, device=self._device).view(1, 3, 1, 1)
        # Detectron2 calls 0 the divisibility of a backbone that takes any size.
        self._multiple = backbone.size_divisibility or _DEFAULT_MULTIPLE

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        common = read_common_config(cfg)
        return {"backbone": build_frozen_backbone(cfg, common["descriptor_layers"]), **common}

    def propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The boxes that stand for a picture; the whole of it, unless a subclass knows better.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (R, 4) float32 XYXY_ABS in its pixels, R > 0, and their saliency (R,) float32.
        """
        return whole_image_box(image), np.ones(1, np.float32)

    def regions(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """See `SearchEngine.regions`.

        Pictures of one size after resizing go through the backbone together.
        """
        groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
        for position, image in enumerate(images):
            pixels = self._prepare(image)
            groups[tuple(pixels.shape)].append((position, pixels))
        found: dict[int, Regions] = {}
        for members in groups.values():
            features = self._forward(torch.cat([pixels for _, pixels in members]))
            for item, (position, _) in enumerate(members):
                found[position] = self._describe(images[position], features, item)
        return [found[position] for position in range(len(images))]

    def embed(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """See `SearchEngine.embed`."""
        return self._pool(self._forward(self._prepare(image)), 0, boxes, image.shape[:2])

    def _describe(self, image: np.ndarray, features: Mapping[str, Tensor], item: int) -> Regions:
        """The regions of the batch's picture `item`, which is `image`."""
        boxes, saliency = self.propose(image)
        return Regions(boxes, saliency, self._pool(features, item, boxes, image.shape[:2]))

    def _prepare(self, image: np.ndarray) -> Tensor:
        """(1, 3, H', W') normalized, H' and W' multiples of the stride."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"a picture is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}: read it with "
                'detectron2.data.detection_utils.read_image(path, "RGB")'
            )
        scale = self.longer_side / max(image.shape[:2])
        size = [
            max(self._multiple, round(side * scale / self._multiple) * self._multiple)
            for side in image.shape[:2]
        ]
        pixels = torch.from_numpy(image.copy()).to(self._device)
        pixels = pixels.permute(2, 0, 1).unsqueeze(0).float()
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        if self._is_bgr:
            pixels = pixels.flip(1)
        pixels = (pixels - self._mean) / self._std
        return pixels.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.backbone(pixels)

    def _pool(
        self, features: Mapping[str, Tensor], item: int, boxes: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """Embeddings (R, D) of `boxes` (R, 4) on the batch's picture `item` of `size` (h, w)."""
        parts = []
        for name, pooling, weight in self.descriptors:
            feature_map = features[name][item].detach()
            pooled = pool_boxes(feature_map, map_boxes(feature_map, boxes, size), pooling)
            parts.append(math.sqrt(weight) * normalize(pooled))
        return self._finish(torch.cat(parts, dim=1))

    def _finish(self, embeddings: Tensor) -> np.ndarray:
        """(R, C) of unit length -> (R, D) of unit length, whitened where that is set."""
        rows = embeddings.cpu().numpy()
        return self.whitening.apply(rows) if self.whitening is not None else rows


class PartsEngine(PooledSearchEngine):
    """The whole picture (or box) by the sum of several vectors of one map, each whitened.

    Each part is L2-normalized, whitened where that is set, and normalized again; so is the sum.
    """

    @property
    def layer(self) -> str:
        """The one map that is pooled."""
        if len(self.descriptors) != 1:
            names = [name for name, *_ in self.descriptors]
            raise ValueError(f"{type(self).__name__} pools one map: DESCRIPTOR_LAYERS is {names}")
        return self.descriptors[0][0]

    @abstractmethod
    def parts(self, crop: Tensor) -> Tensor:
        """Vectors (P, C), of any length, of a map's crop (C, h, w)."""

    def _pool(
        self, features: Mapping[str, Tensor], item: int, boxes: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        feature_map = features[self.layer][item].float()
        cells = map_boxes(feature_map, boxes, size)
        return np.stack([self._sum(self.parts(crop)) for crop in crops(feature_map, cells)])

    def _sum(self, parts: Tensor) -> np.ndarray:
        total = self._finish(normalize(parts)).sum(axis=0)
        return total / max(float(np.linalg.norm(total)), 1e-12)


def map_boxes(feature_map: Tensor, boxes: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Boxes (R, 4) in pixels of a picture of `size` (h, w) -> in cells of its map (C, H, W)."""
    height, width = feature_map.shape[-2:]
    scale = np.array([width / size[1], height / size[0]] * 2, np.float32)
    cells = np.asarray(boxes, np.float32).reshape(-1, 4) * scale
    return torch.from_numpy(cells).to(feature_map.device)


def whole_image_box(image: np.ndarray) -> np.ndarray:
    """(1, 4) float32: a picture (H, W, 3) as one box."""
    return np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32)
