"""What engines that pool one feature map of a frozen backbone over boxes have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.modeling import Backbone
from torch import Tensor
from torch.nn import functional as F

from ..pooling import POOLINGS, normalize, pool_boxes
from ..whitening import Whitening
from .base import SearchEngine


class PooledSearchEngine(SearchEngine):
    """Resizes a picture, runs the backbone, pools `descriptor_layers` over boxes.

    A picture is resized, not padded, to multiples of the backbone's stride: its aspect ratio moves
    by a few percent, and no border is there to find peaks on.
    """

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
            poolings: "mean" or "gem", for each of `descriptor_layers`.
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
        self._multiple = max(backbone.size_divisibility, 32)

    def embed(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """See `SearchEngine.embed`."""
        with torch.no_grad():
            features = self._forward(self._prepare(image))
        return self._pool(features, 0, boxes, image.shape[:2])

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
            cells = torch.from_numpy(_to_cells(boxes, size, feature_map.shape[-2:]))
            pooled = pool_boxes(feature_map, cells.to(feature_map.device), pooling)
            parts.append(math.sqrt(weight) * normalize(pooled))
        embeddings = torch.cat(parts, dim=1).cpu().numpy()
        return self.whitening.apply(embeddings) if self.whitening is not None else embeddings


def _to_cells(boxes: np.ndarray, size: tuple[int, int], cells: Sequence[int]) -> np.ndarray:
    scale = np.array([cells[1] / size[1], cells[0] / size[0]] * 2, np.float32)
    return np.asarray(boxes, np.float32).reshape(-1, 4) * scale
