"""Boxes of tensors against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spil_d2.ops.boxes import two_sigma_box


def draw_ellipse(angle: float, a: float, b: float, size: int = 200) -> torch.Tensor:
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    u = x * math.cos(angle) + y * math.sin(angle)
    v = -x * math.sin(angle) + y * math.cos(angle)
    return torch.from_numpy(((u / a) ** 2 + (v / b) ** 2 <= 1).astype(np.float32))


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.1])
def test_box_of_a_filled_ellipse_is_its_bounding_box(angle: float) -> None:
    a, b = 40.0, 20.0
    box = two_sigma_box(draw_ellipse(angle, a, b)[None], percentile=90.0)[0]
    half_x = math.hypot(a * math.cos(angle), b * math.sin(angle))
    half_y = math.hypot(a * math.sin(angle), b * math.cos(angle))
    expected = [100 - half_x, 100 - half_y, 100 + half_x, 100 + half_y]
    np.testing.assert_allclose(box.numpy(), expected, atol=0.6)


def test_only_the_top_pixels_count_and_the_box_is_clipped() -> None:
    torch.manual_seed(0)
    saliency = torch.rand(3, 20, 40)
    saliency[0, :4, :10] += 1  # 40 of 800 pixels: the top 5 %
    boxes = two_sigma_box(saliency)
    ys, xs = np.mgrid[:4, :10]
    for low, high, values in ((0, 2, xs), (1, 3, ys)):
        # Uniform pixels of width 1 add 1/12 to the variance of their centres.
        deviation = math.sqrt(values.var() + 1 / 12)
        assert boxes[0, low].item() == pytest.approx(max(0, values.mean() + 0.5 - 2 * deviation))
        assert boxes[0, high].item() == pytest.approx(values.mean() + 0.5 + 2 * deviation, abs=1e-4)
    one_by_one = torch.cat([two_sigma_box(one[None]) for one in saliency])
    torch.testing.assert_close(boxes, one_by_one)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes[:, 2].max() <= 40 and boxes.min() >= 0


def test_a_map_without_saliency_is_the_whole_map() -> None:
    assert two_sigma_box(torch.zeros(1, 8, 12)).tolist() == [[0, 0, 12, 8]]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(P, H, W\)"):
        two_sigma_box(torch.zeros(8, 12))
    with pytest.raises(ValueError, match="percentile 100"):
        two_sigma_box(torch.zeros(1, 8, 12), percentile=100)


def test_of_percentile_0_all_pixels_count() -> None:
    saliency = torch.arange(1.0, 301.0).flip(0).reshape(1, 15, 20)
    # Uniform over a length L, 2 standard deviations are L / sqrt(3): more than the map.
    assert two_sigma_box(saliency, percentile=0).tolist() == [[0, 0, 20, 15]]
    saliency[:, :, 3:17] = -1
    saliency[:, :13, 3:17] = 0
    saliency[0, -1, 0] = 0
    rows, columns = (saliency[0] > 0).nonzero().double().unbind(1)
    box = two_sigma_box(saliency, percentile=0)[0]
    y = rows.mean() + 0.5 - 2 * (rows.var(correction=0) + 1 / 12).sqrt()
    assert box.tolist() == pytest.approx([0, max(0.0, float(y)), 20, 15])
    assert len(columns) == 6 * 15 - 1


def test_of_percentile_50_the_larger_half_counts() -> None:
    saliency = torch.arange(3600.0, 0, -1).view(1, 60, 60)
    # The first 30 of 60 rows: 2 standard deviations around 15 are 30 / sqrt(3).
    expected = [0, 0, 60, 15 + 30 / math.sqrt(3)]
    assert two_sigma_box(saliency, percentile=50)[0].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_the_box_of_one_pixel_is_two_deviations_of_a_pixel(percentile: float) -> None:
    saliency = torch.rand(1, 8, 12, generator=torch.Generator().manual_seed(0))
    saliency[0, 2, 7] = 2
    half = 2 / math.sqrt(12)
    expected = [7.5 - half, 2.5 - half, 7.5 + half, 2.5 + half]
    assert two_sigma_box(saliency, percentile)[0].tolist() == pytest.approx(expected)


def test_the_box_is_made_where_the_map_is() -> None:
    assert two_sigma_box(torch.zeros(2, 8, 12, device="meta")).device.type == "meta"
