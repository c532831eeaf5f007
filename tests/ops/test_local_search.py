"""Local correlation search against loops over places and scales."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spil_d2.ops.local_search import cosine_map, local_correlation_search


def _maps(seed: int, height: int = 12, width: int = 15, h: int = 3, w: int = 5) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randn(4, height, width, generator=generator)
    return torch.randn(4, h, w, generator=generator), gallery


def _naive_cosine(kernel: np.ndarray, features: np.ndarray, i: int, j: int) -> float:
    _, kh, kw = kernel.shape
    dot = energy = 0.0
    for a in range(kh):
        for b in range(kw):
            y, x = i + a - kh // 2, j + b - kw // 2
            if 0 <= y < features.shape[1] and 0 <= x < features.shape[2]:
                dot += float(kernel[:, a, b] @ features[:, y, x])
                energy += float(features[:, y, x] @ features[:, y, x])
    return dot / math.sqrt(energy * float((kernel**2).sum()))


def _naive_search(query, gallery, center, reach, scales, weight, k) -> tuple[list[float], float]:
    _, height, width = gallery.shape
    _, h, w = query.shape
    region = reach * math.sqrt(h * w)
    best = (-math.inf, [], 0.0)
    for s in scales:
        size = [2 * math.floor(side * s / 2) + 1 for side in (h, w)]
        kernel = F.interpolate(query[None], size=size, mode="bilinear", align_corners=False)[0]
        for i in range(height):
            for j in range(width):
                dx, dy = abs(j + 0.5 - center[0]), abs(i + 0.5 - center[1])
                if dx > region or dy > region:
                    continue
                window = 1.0
                for d in (dx, dy):
                    window *= 0.5 + 0.5 * math.cos(math.pi * d / region)
                cosine = _naive_cosine(kernel.numpy(), gallery.numpy(), i, j)
                value = (1 - weight) * (cosine + 1) / 2 * math.exp(-k * (max(s, 1 / s) - 1))
                value += weight * window
                if value > best[0]:
                    x, y = j + 0.5, i + 0.5
                    box = [
                        max(0.0, x - w * s / 2),
                        max(0.0, y - h * s / 2),
                        min(float(width), x + w * s / 2),
                        min(float(height), y + h * s / 2),
                    ]
                    best = (value, box, cosine)
    return best[1], best[2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("center", [(7.0, 6.0), (1.2, 11.0)])
def test_the_best_box_is_that_of_the_loops(seed: int, center: tuple[float, float]) -> None:
    query, gallery = _maps(seed)
    settings = (1.3, (0.7, 1.0, 1.5), 0.35, 0.1)
    boxes, cosines = local_correlation_search(
        query,
        gallery,
        center,
        reach=settings[0],
        scales=settings[1],
        window_influence=settings[2],
        scale_penalty=settings[3],
    )
    box, cosine = _naive_search(query, gallery, center, *settings)
    assert boxes.shape == (1, 4) and boxes[0].tolist() == pytest.approx(box, abs=1e-5)
    assert cosines.tolist() == pytest.approx([cosine], abs=1e-5)


def test_a_copy_of_the_query_is_found_exactly() -> None:
    query, gallery = _maps(9)
    gallery[:, 4:7, 6:11] = query
    for reach in (2.0, None):
        boxes, cosines = local_correlation_search(query, gallery, (7.5, 6.5), reach=reach)
        assert boxes.tolist() == [[6, 4, 11, 7]]
        assert cosines.tolist() == pytest.approx([1])


def test_outside_the_search_region_nothing_is_found() -> None:
    query, gallery = _maps(9, width=60)
    gallery[:, 4:7, 50:55] = query
    boxes, _ = local_correlation_search(query, gallery, (5.0, 5.0), reach=2.0)
    assert boxes[0, 2] < 5 + 2 * math.sqrt(15) + 5
    boxes, _ = local_correlation_search(query, gallery, (5.0, 5.0), reach=None)
    assert boxes.tolist() == [[50, 4, 55, 7]]


def test_many_boxes_do_not_overlap_by_more_than_the_threshold() -> None:
    query, gallery = _maps(3)
    boxes, cosines = local_correlation_search(
        query, gallery, (7.0, 6.0), reach=None, max_boxes=6, nms_threshold=0.2, scale_penalty=0.0
    )
    single, _ = local_correlation_search(query, gallery, (7.0, 6.0), reach=None, scale_penalty=0.0)
    assert len(boxes) == 6 and torch.equal(boxes[:1], single)
    assert torch.equal(cosines, cosines.sort(descending=True).values)
    for a in range(6):
        for b in range(a):
            low, high = boxes[[a, b], :2].amax(0), boxes[[a, b], 2:].amin(0)
            common = (high - low).clamp(min=0).prod()
            areas = (boxes[[a, b], 2:] - boxes[[a, b], :2]).prod(1).sum()
            assert common / (areas - common) <= 0.2


def test_a_centre_outside_the_map_and_a_query_larger_than_it_still_give_a_box() -> None:
    query, gallery = _maps(1, height=4, width=4, h=9, w=9)
    boxes, cosines = local_correlation_search(query, gallery, (99.0, -5.0), reach=0.01)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0 and boxes.max() <= 4
    assert cosines.isfinite().all()


def test_an_empty_map_has_cosine_0() -> None:
    query, gallery = _maps(1)
    assert cosine_map(query, torch.zeros_like(gallery)).abs().max() == 0


def test_maps_that_do_not_fit_are_errors() -> None:
    query, gallery = _maps(1)
    with pytest.raises(ValueError, match=r"\(C, h, w\)"):
        local_correlation_search(query[:2], gallery, (1.0, 1.0))
    with pytest.raises(ValueError, match="scales"):
        local_correlation_search(query, gallery, (1.0, 1.0), scales=(0.0,))
