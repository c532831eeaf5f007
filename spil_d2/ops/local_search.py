"""SiamRPN-style local search: a query's map slid over a gallery map near the query's place.

The baseline of CST's Table 2 (spec 6) without its anchors: the search region, the cosine window and
the penalty on a change of scale are SiamRPN's; a box has the query's shape at one of a few scales.
Coordinates are cells of the gallery map, XYXY; cell (i, j) spans [j, j + 1] x [i, i + 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

DEFAULT_SCALES = (0.8, 0.9, 1.0, 1.11, 1.25)


def local_correlation_search(
    query: Tensor,
    gallery: Tensor,
    center: tuple[float, float],
    *,
    reach: float | None = 2.0,
    scales: Sequence[float] = DEFAULT_SCALES,
    window_influence: float = 0.4,
    scale_penalty: float = 0.04,
    max_boxes: int = 1,
    nms_threshold: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """Where a query's features are found near its own place.

    The similarity of a place and a scale s is the cosine c of the query's map, resized by s, and
    the gallery's cells under it. Places compete by
    (1 - w) (c + 1) / 2 exp(-k (max(s, 1 / s) - 1)) + w h, with the cosine window h, which falls
    from 1 at `center` to 0 at the border of the search region.

    Args:
        query: (C, h, w), the features inside the query's box, of the same stride as `gallery`.
        gallery: (C, H, W).
        center: (x, y) of the query's box, in cells of `gallery`; moved into the map.
        reach: half the side of the square search region, as a multiple of sqrt(h w); None searches
            the whole map, without a window ("siamrpn_full").
        scales: s, > 0.
        window_influence: w in [0, 1].
        scale_penalty: k, at least 0.
        max_boxes: boxes that are returned at most.
        nms_threshold: IoU above which the worse of two boxes goes.

    Returns:
        Boxes (N, 4) float32, clipped to the map and never empty, the best first, and their
        cosines (N,) float32 in [-1, 1]; N is 1 or more.
    """
    _check(query, gallery, scales, max_boxes)
    query, gallery = query.float(), gallery.float()
    height, width = gallery.shape[1:]
    side = math.sqrt(query.shape[1] * query.shape[2])
    window = _window((height, width), center, None if reach is None else reach * side)
    window = window.to(gallery.device)
    weight = 0.0 if reach is None else window_influence
    competing, cosines, boxes = [], [], []
    for scale in scales:
        cosine = cosine_map(_resize(query, scale), gallery)
        penalty = math.exp(-scale_penalty * (max(scale, 1 / scale) - 1))
        value = (1 - weight) * (cosine + 1) / 2 * penalty + weight * window
        competing.append(value.masked_fill(window < 0, -math.inf).flatten())
        cosines.append(cosine.flatten())
        boxes.append(_boxes((height, width), query.shape[2] * scale, query.shape[1] * scale))
    return _best(
        torch.cat(boxes).to(gallery.device),
        torch.cat(competing),
        torch.cat(cosines),
        max_boxes,
        nms_threshold,
    )


def _check(query: Tensor, gallery: Tensor, scales: Sequence[float], max_boxes: int) -> None:
    if query.ndim != 3 or gallery.ndim != 3 or query.shape[0] != gallery.shape[0]:
        raise ValueError(
            f"maps are (C, h, w) and (C, H, W), got {tuple(query.shape)}, {tuple(gallery.shape)}"
        )
    if not scales or min(scales) <= 0 or max_boxes < 1:
        raise ValueError(f"scales are > 0 and max_boxes >= 1, got {scales} and {max_boxes}")


def cosine_map(kernel: Tensor, features: Tensor) -> Tensor:
    """The cosine of a kernel and the patch around each cell; zeros lie outside the map.

    Args:
        kernel: (C, kh, kw), kh and kw odd.
        features: (C, H, W).

    Returns:
        (H, W) in [-1, 1]; 0 where either is all zero.
    """
    padding = kernel.shape[1] // 2, kernel.shape[2] // 2
    product = F.conv2d(features[None], kernel[None], padding=padding)[0, 0]
    ones = torch.ones_like(kernel[:1])
    energy = F.conv2d(features.square().sum(0)[None, None], ones[None], padding=padding)[0, 0]
    length = kernel.norm() * energy.clamp(min=0).sqrt()
    return (product / length.clamp(min=1e-12)).clamp(-1, 1)


def _resize(query: Tensor, scale: float) -> Tensor:
    """The map at a scale, its sides rounded to odd numbers of cells, so that it has a centre."""
    size = [2 * math.floor(length * scale / 2) + 1 for length in query.shape[1:]]
    return F.interpolate(query[None], size=size, mode="bilinear", align_corners=False)[0]


def _window(size: tuple[int, int], center: tuple[float, float], reach: float | None) -> Tensor:
    """(H, W) cosine window, -1 outside the search region; the nearest cell is always inside."""
    if reach is None:
        return torch.zeros(size)
    height, width = size
    axes = []
    for place, length in ((center[1], height), (center[0], width)):
        distance = (torch.arange(length) + 0.5 - min(max(place, 0.5), length - 0.5)).abs()
        value = (1 + torch.cos(math.pi * (distance / reach).clamp(max=1))) / 2
        inside = (distance <= reach) | (distance == distance.min())
        axes.append(value.masked_fill(~inside, -1.0))
    rows, columns = axes[0][:, None], axes[1][None]
    outside = (rows < 0) | (columns < 0)
    return (rows * columns).masked_fill(outside, -1.0)


def _boxes(size: tuple[int, int], width: float, height: float) -> Tensor:
    """(H W, 4) boxes of one shape around the centres of all cells, clipped to the map."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    x, y = x.flatten(), y.flatten()
    boxes = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=1)
    limits = torch.tensor([size[1], size[0], size[1], size[0]], dtype=boxes.dtype)
    return boxes.clamp(min=0).minimum(limits)


def _best(
    boxes: Tensor, competing: Tensor, cosines: Tensor, max_boxes: int, nms_threshold: float
) -> tuple[Tensor, Tensor]:
    if max_boxes == 1:
        kept = competing.argmax()[None]
    else:
        inside = competing.isfinite().nonzero()[:, 0]
        kept = inside[nms(boxes[inside], competing[inside], nms_threshold)][:max_boxes]
    return boxes[kept], cosines[kept]
