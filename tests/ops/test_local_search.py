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


@pytest.mark.parametrize("center", [(4.5, 5.5), (3.0, 2.25), (0.7, 8.9), (-3.0, 20.0)])
@pytest.mark.parametrize(("reach", "weight"), [(2.0, 0.1), (2.0, 0.5), (4.5, 0.5), (0.4, 0.3)])
def test_places_compete_by_cosine_and_window(
    center: tuple[float, float], reach: float, weight: float
) -> None:
    # A query of one cell, so that the cosines are what the test wants them to be.
    rng = np.random.default_rng(0)
    height, width, penalty = 11, 9, 1.0
    x, y = min(max(center[0], 0.5), width - 0.5), min(max(center[1], 0.5), height - 0.5)
    dy, dx = abs(np.arange(height) + 0.5 - y), abs(np.arange(width) + 0.5 - x)
    window = np.outer(*(0.5 + 0.5 * np.cos(np.pi * np.minimum(d / reach, 1)) for d in (dy, dx)))
    allowed = np.outer(*((d <= reach) | (d == d.min()) for d in (dy, dx)))
    for _ in range(25):
        cosine = rng.uniform(-1, 1, (height, width))
        gallery = np.stack([cosine, np.sqrt(1 - cosine**2)])
        value = (1 - weight) * (cosine + 1) / 2 + weight * window
        row, column = np.unravel_index(np.where(allowed, value, -1).argmax(), value.shape)
        boxes, cosines = local_correlation_search(
            torch.tensor([[[1.0]], [[0.0]]]),
            torch.from_numpy(gallery),
            center,
            reach=reach,
            scales=(0.6, 1.0, 1.7),
            window_influence=weight,
            scale_penalty=penalty,
        )
        assert boxes.tolist() == [[column, row, column + 1, row + 1]]
        assert cosines.tolist() == pytest.approx([cosine[row, column]], abs=1e-5)


def test_the_border_of_the_search_region_belongs_to_it() -> None:
    query = torch.tensor([[[1.0]], [[0.0]]])
    for row, column, is_found in ((5, 7, True), (3, 7, True), (3, 8, False), (2, 5, False)):
        gallery = torch.tensor([[[-1.0]], [[0.0]]]).repeat(1, 11, 11)
        gallery[0, row, column] = 1.0
        boxes, _ = local_correlation_search(query, gallery, (5.5, 5.5), reach=2.0, scales=(1.0,))
        assert (boxes.tolist() == [[column, row, column + 1, row + 1]]) == is_found


def test_a_tall_map_is_searched_to_its_end() -> None:
    query, gallery = _maps(2, height=40, width=8)
    gallery[:, 36:39, 2:7] = query
    boxes, _ = local_correlation_search(query, gallery, (4.0, 4.0), reach=None)
    assert boxes.tolist() == [[2, 36, 7, 39]]


def test_without_a_search_region_there_is_no_window() -> None:
    query, gallery = _maps(9)
    gallery[:, 4:7, 6:11] = query
    boxes, _ = local_correlation_search(
        query, gallery, (1.0, 1.0), reach=None, window_influence=1.0
    )
    assert boxes.tolist() == [[6, 4, 11, 7]]


def test_boxes_are_made_where_the_maps_are() -> None:
    query, gallery = (one.to("meta") for one in _maps(0))
    for found in local_correlation_search(query, gallery, (1.0, 1.0)):
        assert found.device.type == "meta"


def test_by_default_the_search_reaches_twice_the_side_of_the_query() -> None:
    query = torch.tensor([[[1.0]], [[0.0]]])
    gallery = torch.tensor([[[-1.0]], [[0.0]]]).repeat(1, 11, 11)
    gallery[0, 5, 8] = 1.0
    for settings, expected in (({}, -1), ({"reach": 3.0}, 1)):
        _, cosines = local_correlation_search(query, gallery, (5.5, 5.5), **settings)
        assert cosines.tolist() == [expected]


def test_by_default_another_scale_costs_little() -> None:
    query, gallery = _maps(9)
    larger = F.interpolate(query[None], size=(5, 7), mode="bilinear", align_corners=False)[0]
    gallery[:, 3:8, 4:11] = larger
    # By the penalty of 0.04 half a scale more costs 2 %.
    for settings, width in (({}, 7.5), ({"scale_penalty": 2.0}, 5.0)):
        boxes, _ = local_correlation_search(
            query, gallery, (7.5, 5.5), scales=(1.0, 1.5), **settings
        )
        assert boxes[0, 2] - boxes[0, 0] == width


def test_by_default_boxes_overlap_by_three_tenths() -> None:
    query, gallery = _maps(3)
    found = [
        local_correlation_search(query, gallery, (7.0, 6.0), max_boxes=6, **settings)[0]
        for settings in ({}, {"nms_threshold": 0.3}, {"nms_threshold": 0.5})
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


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


@pytest.mark.parametrize("count", [2, 6])
def test_many_boxes_do_not_overlap_by_more_than_the_threshold(count: int) -> None:
    query, gallery = _maps(3)
    boxes, cosines = local_correlation_search(
        query,
        gallery,
        (7.0, 6.0),
        reach=None,
        max_boxes=count,
        nms_threshold=0.2,
        scale_penalty=0.0,
    )
    single, _ = local_correlation_search(query, gallery, (7.0, 6.0), reach=None, scale_penalty=0.0)
    assert len(boxes) == count and torch.equal(boxes[:1], single)
    assert torch.equal(cosines, cosines.sort(descending=True).values)
    for a in range(count):
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


def test_cosines_do_not_depend_on_lengths_and_never_leave_their_range() -> None:
    query, gallery = _maps(1)
    expected = cosine_map(query, gallery)
    torch.testing.assert_close(cosine_map(1e-3 * query, 1e-3 * gallery), expected)
    kernel = torch.randn(4, 1, 1, generator=torch.Generator().manual_seed(0))
    lengths = torch.linspace(-3, 3, 64 * 64).view(1, 64, 64)
    parallel = cosine_map(kernel, kernel * lengths)
    torch.testing.assert_close(parallel, lengths[0].sign())
    # Rounding takes some beyond 1 before they are cut.
    raw = (kernel * (kernel * lengths)).sum(0) / kernel.norm() / (kernel * lengths).norm(dim=0)
    assert raw.abs().max() > 1 and parallel.abs().max() == 1


def test_maps_that_do_not_fit_are_errors() -> None:
    query, gallery = _maps(1)
    with pytest.raises(ValueError, match=r"\(C, h, w\)"):
        local_correlation_search(query[:2], gallery, (1.0, 1.0))
    for one, other in ((query[None, 0], gallery[None]), (query[None], gallery[:1])):
        with pytest.raises(ValueError, match=r"^maps are \(C, h, w\) and \(C, H, W\), got"):
            local_correlation_search(one, other, (1.0, 1.0))
    with pytest.raises(ValueError, match="scales"):
        local_correlation_search(query, gallery, (1.0, 1.0), scales=(0.0,))
