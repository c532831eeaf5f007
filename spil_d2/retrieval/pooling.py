"""Embeddings of boxes: a feature map pooled over the cells that a box touches.

Shape shorthand: C channels, H x W cells, R boxes. A crop is the part of a map that a box touches.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

_GEM_POWER = 3.0
_GEM_FLOOR = 1e-6
_RMAC_SCALES = 3
_RMAC_OVERLAP = 0.4


def mac(crop: Tensor) -> Tensor:
    """(C, H, W) -> (C,): the maximum over the cells (MAC)."""
    return crop.flatten(1).amax(dim=1)


def spoc(crop: Tensor) -> Tensor:
    """(C, H, W) -> (C,): the sum with a centred Gaussian as weight (SPoC).

    Its sigma is a third of the distance from the centre to the closest border.
    """
    _, height, width = crop.shape
    sigma = min(height, width) / 6
    y = torch.arange(height, device=crop.device) + 0.5 - height / 2
    x = torch.arange(width, device=crop.device) + 0.5 - width / 2
    weights = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * sigma**2))
    return torch.einsum("chw,hw->c", crop, weights)


def crow(crop: Tensor) -> Tensor:
    """(C, H, W), rectified -> (C,): the sum with CroW's weights of cells and channels."""
    return crow_channel_weights(crop) * torch.einsum("chw,hw->c", crop, crow_cell_weights(crop))


def crow_cell_weights(crop: Tensor) -> Tensor:
    """alpha (H, W) of CroW, with a = b = 2, of a rectified map (C, H, W)."""
    if crop.min() < 0:
        raise ValueError(
            "CroW weighs the cells of a rectified map, and this one goes down to "
            f"{crop.min().item():.3g}: set SEARCH.DESCRIPTOR_LAYERS to the output of a ReLU"
        )
    total = crop.sum(dim=0)
    return (total / total.norm().clamp(min=1e-12)).sqrt()


def crow_channel_weights(crop: Tensor) -> Tensor:
    """I (C,) of CroW: log(sum Q / Q_k), Q_k the part of the cells where channel k is not 0."""
    filled = (crop != 0).float().mean(dim=(1, 2))
    weights = torch.log(filled.sum() / filled.clamp(min=1e-12))
    return torch.where(filled > 0, weights, torch.zeros_like(weights))


def rmac_regions(height: int, width: int) -> Tensor:
    """The square regions of R-MAC at 3 scales, (R, 4) int64 XYXY in cells.

    Scale l has squares of side 2 min(H, W) / (l + 1) on l positions of the short axis and l + m of
    the long one; m = 0 on a square map, else the one of 1 ... 6 with which squares of the first
    scale that follow each other overlap by nearest to 40 %.
    """
    short, long = min(height, width), max(height, width)
    extra = 0
    if long > short:
        overlaps = {m: 1 - (long - short) / m / short for m in range(1, 7)}
        extra = min(overlaps, key=lambda m: abs(overlaps[m] - _RMAC_OVERLAP))
    extra_x, extra_y = (extra, 0) if width > height else (0, extra)
    boxes = []
    for scale in range(1, _RMAC_SCALES + 1):
        side = max(1, 2 * short // (scale + 1))
        ys = _starts(height - side, scale + extra_y)
        xs = _starts(width - side, scale + extra_x)
        boxes += [(x, y, x + side, y + side) for y in ys for x in xs]
    return torch.tensor(boxes)


def _starts(last: int, count: int) -> list[int]:
    """`count` starts spread evenly from 0 to `last`."""
    return [last * i // max(count - 1, 1) for i in range(count)]


_CROP_POOLINGS: MappingProxyType[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"max": mac, "spoc": spoc, "crow": crow}
)
POOLINGS = ("mean", "gem", *_CROP_POOLINGS)


def pool_boxes(feature_map: Tensor, boxes: Tensor, pooling: str = "mean") -> Tensor:
    """Pool a feature map over boxes.

    Args:
        feature_map: (C, H, W).
        boxes: (R, 4) XYXY in cells of the map (not rounded). Each covers the cells from its floor
            to its ceiling, inside the map, and one cell at least.
        pooling: "mean" (of unit length the same as uCroW's sum); "gem": the generalized mean
            (mean x^3)^(1/3) of max(x, 1e-6); "max"; "spoc"; "crow".

    Returns:
        (R, C) float32, not normalized.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}: use one of {POOLINGS}")
    feature_map = feature_map.float()
    if pooling in _CROP_POOLINGS:
        pool = _CROP_POOLINGS[pooling]
        return torch.stack([pool(crop) for crop in crops(feature_map, boxes)])
    if pooling == "gem":
        feature_map = feature_map.clamp(min=_GEM_FLOOR) ** _GEM_POWER
    _, height, width = feature_map.shape
    columns = _covered(boxes[:, 0], boxes[:, 2], width)
    rows = _covered(boxes[:, 1], boxes[:, 3], height)
    pooled = torch.einsum("chw,rw->rch", feature_map, columns)
    pooled = torch.einsum("rch,rh->rc", pooled, rows)
    return pooled ** (1 / _GEM_POWER) if pooling == "gem" else pooled


def pool_masks(feature_map: Tensor, masks: Tensor, pooling: str = "mean") -> Tensor:
    """Pool a feature map over masks.

    Args:
        feature_map: (C, H, W).
        masks: (R, h, w) bool, over the same picture, each with a pixel at least. A cell counts by
            the part of it that the mask fills.
        pooling: "mean" or "gem", see `pool_boxes`.

    Returns:
        (R, C) float32, not normalized.
    """
    if pooling not in ("mean", "gem"):
        raise ValueError(f"pooling of masks {pooling!r}: use 'mean' or 'gem'")
    feature_map = feature_map.float()
    if pooling == "gem":
        feature_map = feature_map.clamp(min=_GEM_FLOOR) ** _GEM_POWER
    weights = F.interpolate(masks[:, None].float(), size=feature_map.shape[1:], mode="area")[:, 0]
    weights = weights / weights.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    pooled = torch.einsum("chw,rhw->rc", feature_map, weights)
    return pooled ** (1 / _GEM_POWER) if pooling == "gem" else pooled


def crops(feature_map: Tensor, boxes: Tensor) -> list[Tensor]:
    """The (C, h, w) parts of a map (C, H, W) that boxes (R, 4), as in `pool_boxes`, touch."""
    _, height, width = feature_map.shape
    x0, x1 = _bounds(boxes[:, 0], boxes[:, 2], width)
    y0, y1 = _bounds(boxes[:, 1], boxes[:, 3], height)
    sides = torch.stack([x0, y0, x1, y1], dim=1).long().tolist()
    return [feature_map[:, top:bottom, left:right] for left, top, right, bottom in sides]


def normalize(embeddings: Tensor) -> Tensor:
    """L2 normalization of the rows of (R, D); a zero row stays zero."""
    return F.normalize(embeddings, dim=1)


def _bounds(low: Tensor, high: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """First cell covered and the one behind the last, (R,) each."""
    first = low.floor().clamp(0, length - 1)
    return first, torch.maximum(high.ceil().clamp(max=length), first + 1)


def _covered(low: Tensor, high: Tensor, length: int) -> Tensor:
    """(R, length) weights, 1 / count on the covered cells."""
    first, last = _bounds(low, high, length)
    cells = torch.arange(length, device=low.device)
    inside = ((cells >= first[:, None]) & (cells < last[:, None])).float()
    return inside / inside.sum(dim=1, keepdim=True)
