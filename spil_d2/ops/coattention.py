"""Pseudo masks by co-attention (SPIL, Section 3.2; decisions D15-D20).

Locations that vary together over pictures of one instance lie on the instance. The coordinate of
each location of a picture's feature map along the first principal direction of all of them is the
indicator map; superpixels give it borders, the box gives it a sign and a limit.

Shape shorthand: C channels, h x w cells of a feature map, H x W pixels of the stored picture, E
extra instances. A feature map covers the whole picture, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from .principal_direction import PrincipalDirection, location_weights, principal_direction

NORMALIZE = ("relu_max", "minmax")
PCA_ON = ("all", "crops")
EXTRAS = ("extra_gt", "ignore", "off")

SETS = ("pool", "pair")
"""Pictures of a co-attention set (D15): all of a query's confident ones, or Y and X_p alone."""

_MIN_CONTRAST = 0.1
"""Least difference of the means inside and outside the box, in standard deviations of the map."""

_EXTRA_AREA_RATIO = (0.25, 4.0)
"""Area of an extra instance over that of the instance's mask (D20)."""


@dataclass(frozen=True)
class CoAttentionSettings:
    """How an indicator map becomes a mask; the names are those of the config keys.

    Attributes:
        threshold: a superpixel with a larger mean of the normalized indicator is selected.
        normalize: "relu_max" (max(A, 0) / max A) or "minmax" ((A - min) / (max - min)); see D18.
        pca_on: "all" finds the direction on the picture and the crops, "crops" on the crops alone.
        weighted: every picture counts the same in the direction, or else every location (D16).
        min_fill: least share of the box that a mask fills; below it the mask is the box.
        extras: "extra_gt" and "ignore" look for similar instances outside the box, "off" does not;
            to training they are positives or ignore regions.
        extra_min_mean: least mean of the normalized indicator over an extra instance.
    """

    threshold: float = 0.1
    normalize: str = "relu_max"
    pca_on: str = "all"
    weighted: bool = True
    min_fill: float = 0.05
    extras: str = "extra_gt"
    extra_min_mean: float = 0.5

    def __post_init__(self) -> None:
        for name, allowed in (("normalize", NORMALIZE), ("pca_on", PCA_ON), ("extras", EXTRAS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"COATTENTION.{name.upper()} is {getattr(self, name)!r}: use one of {allowed}"
                )
        for name in ("threshold", "min_fill", "extra_min_mean"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"COATTENTION.{name.upper()} is {getattr(self, name)}: use a value in [0, 1]"
                )


@dataclass(frozen=True)
class CoAttentionResult:
    """The pseudo mask of one picture.

    Attributes:
        mask: (H, W) bool, inside the box, never empty.
        extra_boxes: (E, 4) float32 XYXY_ABS in pixels of the stored picture, outside the box.
        extra_weights: (E,) float32 in (0, 1], mean of the normalized indicator over each.
        is_fallback: the mask is the box itself, for want of a better one.
    """

    mask: np.ndarray
    extra_boxes: np.ndarray
    extra_weights: np.ndarray
    is_fallback: bool


def common_direction(
    image_maps: Sequence[torch.Tensor],
    crop_maps: Sequence[torch.Tensor],
    pca_on: str = "all",
    weighted: bool = True,
) -> PrincipalDirection | None:
    """What varies most over pictures of one instance.

    Args:
        image_maps: maps (C, h, w) of whole pictures.
        crop_maps: maps (C, h, w) of crops around the instance.
        pca_on: "all" or "crops", which leaves `image_maps` out.
        weighted: every picture counts the same (D16); else every location does.

    Returns:
        Mean and direction, or None where no map is left to find them on.
    """
    maps = [*crop_maps] if pca_on == "crops" else [*image_maps, *crop_maps]
    if not maps:
        return None
    sizes = [m.shape[1] * m.shape[2] for m in maps]
    weights = location_weights(sizes) if weighted else None
    return principal_direction(torch.cat([m.flatten(1).T for m in maps]), weights)


def pseudo_mask(
    feature_map: torch.Tensor,
    box: Sequence[float],
    principal: PrincipalDirection | None,
    superpixels: np.ndarray,
    settings: CoAttentionSettings,
    fine: tuple[torch.Tensor, PrincipalDirection] | None = None,
) -> CoAttentionResult:
    """The mask of the instance in a box, and similar instances outside it.

    Args:
        feature_map: (C, h, w) map of the whole picture.
        box: XYXY_ABS in pixels of the stored picture.
        principal: from `common_direction`; its sign does not matter. None yields the box.
        superpixels: (H, W) labels from 0 of the stored picture.
        settings: thresholds and options.
        fine: a finer map (C', h', w') of the whole picture and its direction; it gives the
            indicator where `feature_map` is positive (DDT+).
    """
    size = (superpixels.shape[0], superpixels.shape[1])
    normalized = None
    if principal is not None:
        projections = [principal.project(feature_map)]
        if fine is not None:
            projections.append(fine[1].project(fine[0]))
        normalized = _normalized(projections, box, size, settings.normalize)
    if normalized is None:
        return CoAttentionResult(rectangle(box, size), *_no_extras(), is_fallback=True)
    indicator = upsample(normalized, size)
    selected = superpixel_means(superpixels, indicator) > settings.threshold
    mask, is_fallback = limit_to_box(selected, box, settings.min_fill)
    # A map that misses the instance itself says nothing about others.
    if is_fallback or settings.extras == "off":
        return CoAttentionResult(mask, *_no_extras(), is_fallback)
    extras = find_extras(selected, indicator, box, int(mask.sum()), settings.extra_min_mean)
    return CoAttentionResult(mask, *extras, is_fallback)


def _normalized(
    projections: Sequence[torch.Tensor], box: Sequence[float], size: tuple[int, int], method: str
) -> torch.Tensor | None:
    """The deeper projection in [0, 1], or the finer one gated by it; None if one has no sign."""
    candidates = (orient_indicator(one, box, size) for one in projections)
    oriented = [one for one in candidates if one is not None]
    if len(oriented) < len(projections):
        return None
    if len(oriented) == 1:
        return normalize_indicator(oriented[0], method)
    return gate_indicator(oriented[1], oriented[0], method)


def gate_indicator(fine: torch.Tensor, deep: torch.Tensor, method: str) -> torch.Tensor:
    """The finer map in [0, 1], normalized over the deeper one's positive region, 0 outside (DDT+).

    Args:
        fine, deep: oriented maps (h', w') and (h, w) of one picture.
        method: of `normalize_indicator`.
    """
    large = F.interpolate(deep[None, None], fine.shape, mode="bilinear", align_corners=False)
    gate = large[0, 0] > 0
    if not gate.any():
        return torch.zeros_like(fine)
    inside = torch.where(gate, fine, fine[gate].min())
    return normalize_indicator(inside, method) * gate


def orient_indicator(
    indicator: torch.Tensor, box: Sequence[float], size: tuple[int, int]
) -> torch.Tensor | None:
    """Gives the map the sign that is larger inside the box (D17).

    Args:
        indicator: (h, w) coordinates along a direction of arbitrary sign.
        box: XYXY_ABS in pixels of a picture of `size` = (H, W).

    Returns:
        (h, w), or None if the inside does not stand out from the outside or one of them is empty.
    """
    inside = box_coverage(box, (indicator.shape[0], indicator.shape[1]), size).to(indicator)
    outside = 1 - inside
    # A thousandth of a cell: less is rounding.
    if inside.sum() < 1e-3 or outside.sum() < 1e-3:
        return None
    contrast = (indicator * inside).sum() / inside.sum()
    contrast = contrast - (indicator * outside).sum() / outside.sum()
    if contrast.abs() <= _MIN_CONTRAST * indicator.std(correction=0):
        return None
    return indicator * contrast.sign()


def box_coverage(
    box: Sequence[float], cells: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """(h, w) share of each cell's area that a box covers, for a map that covers the picture.

    Args:
        box: XYXY_ABS in pixels of a picture of `size` = (H, W).
        cells: (h, w) of the map.
    """
    shares = []
    for low, high, count, length in (
        (box[1], box[3], cells[0], size[0]),
        (box[0], box[2], cells[1], size[1]),
    ):
        start = torch.arange(count, dtype=torch.float32)
        low_cell, high_cell = low * count / length, high * count / length
        overlap = (start + 1).clamp(max=high_cell) - start.clamp(min=low_cell)
        shares.append(overlap.clamp(min=0))
    return shares[0][:, None] * shares[1][None, :]


def normalize_indicator(indicator: torch.Tensor, method: str = "relu_max") -> torch.Tensor:
    """Brings an oriented map to [0, 1] (D18).

    "relu_max" keeps 0, the mean location, at 0. "minmax" lifts it: in a map of [-40, 80] to 0.33,
    above the usual threshold 0.1. A map without a positive value (of equal values) becomes zeros.
    """
    low = indicator.min() if method == "minmax" else indicator.new_zeros(())
    span = indicator.max() - low
    if span <= 0:
        return torch.zeros_like(indicator)
    return (indicator - low).clamp(min=0) / span


def upsample(indicator: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bilinear (h, w) -> (H, W) float32 on the CPU."""
    large = F.interpolate(indicator[None, None].float(), size, mode="bilinear", align_corners=False)
    return large[0, 0].cpu().numpy()


def superpixel_means(superpixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(H, W) float64: at each pixel the mean of `values` (H, W) over its superpixel (H, W)."""
    labels = superpixels.ravel()
    sums = np.bincount(labels, weights=values.ravel())
    counts = np.bincount(labels)
    return (sums / np.maximum(counts, 1))[labels].reshape(superpixels.shape)


def limit_to_box(
    selected: np.ndarray, box: Sequence[float], min_fill: float
) -> tuple[np.ndarray, bool]:
    """The selected pixels inside the box, or all of the box if they are too few (D19).

    Args:
        selected: (H, W) bool.
        box: XYXY_ABS in pixels.
        min_fill: least share of the box's pixels.

    Returns:
        (H, W) bool mask, never empty, and whether it is the fallback.
    """
    whole = rectangle(box, (selected.shape[0], selected.shape[1]))
    mask = selected & whole
    area = mask.sum()
    if area == 0 or area < min_fill * whole.sum():
        return whole, True
    return mask, False


def find_extras(
    selected: np.ndarray,
    indicator: np.ndarray,
    box: Sequence[float],
    mask_area: int,
    min_mean: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Similar instances: selected regions of the instance's order of size outside its box (D20).

    A region that reaches into the box is taken for the instance itself, running over its box.

    Args:
        selected: (H, W) bool.
        indicator: (H, W) normalized indicator map.
        box: XYXY_ABS in pixels of the instance.
        mask_area: pixels of the instance's mask.
        min_mean: least mean of the indicator over a region.

    Returns:
        (E, 4) float32 tight XYXY_ABS boxes and (E,) float32 means of the indicator.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        selected.astype(np.uint8), connectivity=8
    )
    within = np.unique(labels[rectangle(box, (selected.shape[0], selected.shape[1]))])
    sums = np.bincount(labels.ravel(), weights=indicator.ravel(), minlength=count)
    means = sums / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    boxes, weights = [], []
    for label in range(1, count):
        left, top, width, height, area = (int(v) for v in stats[label])
        low, high = (ratio * mask_area for ratio in _EXTRA_AREA_RATIO)
        if label in within or not low <= area <= high or means[label] < min_mean:
            continue
        boxes.append((left, top, left + width, top + height))
        weights.append(min(means[label], 1.0))
    return (
        np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        np.asarray(weights, dtype=np.float32),
    )


def rectangle(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels of a picture of `size` whose centre is in the box; at least one."""
    mask = np.zeros(size, dtype=bool)
    slices = []
    for low, high, length in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
        first = min(max(int(np.ceil(low - 0.5)), 0), length - 1)
        slices.append(slice(first, max(int(np.ceil(high - 0.5)), first + 1)))
    mask[slices[0], slices[1]] = True
    return mask


def _no_extras() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32)
