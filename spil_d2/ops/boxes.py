"""Boxes out of saliency maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def two_sigma_box(saliency: Tensor, percentile: float = 95.0) -> Tensor:
    """The bounding box of the 2-sigma ellipse of the most salient pixels.

    That box is mean +- 2 standard deviations per axis, whatever the ellipse's tilt; of a uniformly
    filled ellipse it is the exact bounding box.

    Args:
        saliency: (P, H, W).
        percentile: in [0, 100); the kept pixels are those of at least this percentile (95: the
            top 5 %, ties included) that are > 0.

    Returns:
        (P, 4) float32, XYXY_ABS in pixels of the map, clipped to it; pixel i spans [i, i + 1]. A
        map without a value > 0 yields the whole map.
    """
    if saliency.ndim != 3:
        raise ValueError(f"saliency maps are (P, H, W), got {tuple(saliency.shape)}")
    if not 0 <= percentile < 100:
        raise ValueError(f"percentile {percentile} is not in [0, 100)")
    _, height, width = saliency.shape
    flat = saliency.flatten(1)
    count = max(1, math.ceil(flat.shape[1] * (100 - percentile) / 100))
    threshold = flat.topk(count, dim=1).values[:, -1]
    kept = ((saliency >= threshold[:, None, None]) & (saliency > 0)).double()
    low_x, high_x = _interval(kept.sum(dim=1))
    low_y, high_y = _interval(kept.sum(dim=2))
    return torch.stack([low_x, low_y, high_x, high_y], dim=1).float()


def _interval(histogram: Tensor) -> tuple[Tensor, Tensor]:
    """mean -+ 2 std of positions counted by `histogram` (P, L), in [0, L]; [0, L] where empty."""
    length = histogram.shape[1]
    positions = torch.arange(length, dtype=histogram.dtype, device=histogram.device) + 0.5
    total = histogram.sum(dim=1)
    mean = histogram @ positions / total
    variance = histogram @ positions.square() / total - mean.square()
    # A pixel is not a point: its own extent keeps the box of a single pixel from being empty.
    deviation = (variance.clamp(min=0) + 1 / 12).sqrt()
    low, high = mean - 2 * deviation, mean + 2 * deviation
    empty = total == 0
    low = torch.where(empty, torch.zeros_like(low), low).clamp(min=0)
    high = torch.where(empty, torch.full_like(high, length), high).clamp(max=length)
    return low, high
