"""Embeddings of boxes: a feature map averaged over the cells that a box touches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

POOLINGS = ("mean", "gem")
_GEM_POWER = 3.0
_GEM_FLOOR = 1e-6


def pool_boxes(feature_map: Tensor, boxes: Tensor, pooling: str = "mean") -> Tensor:
    """Pool a feature map over boxes.

    Args:
        feature_map: (C, H, W).
        boxes: (R, 4) XYXY in cells of the map (not rounded). Each covers the cells from its floor
            to its ceiling, inside the map, and one cell at least.
        pooling: "mean", or "gem": the generalized mean (mean x^3)^(1/3) of max(x, 1e-6).

    Returns:
        (R, C) float32, not normalized.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}: use one of {POOLINGS}")
    feature_map = feature_map.float()
    if pooling == "gem":
        feature_map = feature_map.clamp(min=_GEM_FLOOR) ** _GEM_POWER
    _, height, width = feature_map.shape
    columns = _covered(boxes[:, 0], boxes[:, 2], width)
    rows = _covered(boxes[:, 1], boxes[:, 3], height)
    pooled = torch.einsum("chw,rw->rch", feature_map, columns)
    pooled = torch.einsum("rch,rh->rc", pooled, rows)
    return pooled ** (1 / _GEM_POWER) if pooling == "gem" else pooled


def normalize(embeddings: Tensor) -> Tensor:
    """L2 normalization of the rows of (R, D); a zero row stays zero."""
    return F.normalize(embeddings, dim=1)


def _covered(low: Tensor, high: Tensor, length: int) -> Tensor:
    """(R, length) weights, 1 / count on the covered cells."""
    first = low.floor().clamp(0, length - 1)
    last = torch.maximum(high.ceil().clamp(max=length), first + 1)
    cells = torch.arange(length, device=low.device)
    inside = ((cells >= first[:, None]) & (cells < last[:, None])).float()
    return inside / inside.sum(dim=1, keepdim=True)
