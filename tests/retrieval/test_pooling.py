"""Poolings and R-MAC's regions against the worked numbers of the specification and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spil_d2.retrieval.pooling import (
    crops,
    crow,
    crow_cell_weights,
    crow_channel_weights,
    pool_boxes,
    pool_masks,
    rmac_regions,
)

# (C, H, W) = (2, 2, 2) of Section 4.
WORKED = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 2.0]]])


def test_crow_gives_the_worked_numbers() -> None:
    torch.testing.assert_close(
        crow_cell_weights(WORKED),
        torch.tensor([[0.816497, 0.57735], [0.0, 0.816497]]),
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(
        crow_channel_weights(WORKED), torch.tensor([1.386294, 0.287682]), atol=1e-6, rtol=0
    )
    expected = torch.tensor([1.131905, 0.870768])
    torch.testing.assert_close(crow(WORKED), expected, atol=1e-6, rtol=0)
    whole = pool_boxes(WORKED, torch.tensor([[0.0, 0.0, 2.0, 2.0]]), "crow")
    torch.testing.assert_close(whole[0], expected, atol=1e-6, rtol=0)


def test_crow_of_an_empty_channel_or_map_is_zero() -> None:
    feature_map = torch.zeros(3, 4, 4)
    assert (crow(feature_map) == 0).all()
    feature_map[1] = 1
    assert crow(feature_map)[0] == 0 and crow(feature_map).isfinite().all()


def test_crow_refuses_a_map_that_is_not_rectified() -> None:
    with pytest.raises(ValueError, match="output of a ReLU"):
        crow(torch.full((2, 3, 3), -1.0))


@pytest.mark.parametrize(
    ("height", "width", "count"), [(32, 32, 14), (24, 32, 20), (32, 24, 20), (20, 64, 38)]
)
def test_rmac_has_the_published_number_of_regions(height: int, width: int, count: int) -> None:
    regions = rmac_regions(height, width)
    assert regions.shape == (count, 4)
    sides = regions[:, 2:] - regions[:, :2]
    assert (sides[:, 0] == sides[:, 1]).all()
    short = min(height, width)
    assert set(sides[:, 0].tolist()) == {2 * short // (scale + 1) for scale in (1, 2, 3)}
    assert (regions[:, :2] >= 0).all()
    assert regions[:, 2].max() == width and regions[:, 3].max() == height


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (3, 2), (2, 9)])
def test_rmac_regions_of_a_tiny_map_are_inside_and_not_empty(height: int, width: int) -> None:
    regions = rmac_regions(height, width)
    assert (regions[:, 2:] > regions[:, :2]).all() and (regions >= 0).all()
    assert (regions <= torch.tensor([width, height] * 2)).all()


@pytest.mark.parametrize("pooling", ["max", "spoc", "crow"])
def test_crop_poolings_against_loops(pooling: str) -> None:
    torch.manual_seed(0)
    feature_map = torch.rand(3, 6, 8)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 6.0], [1.2, 2.0, 3.1, 4.5]])
    for row, (x0, y0, x1, y1) in zip(
        pool_boxes(feature_map, boxes, pooling), [(0, 0, 8, 6), (1, 2, 4, 5)]
    ):
        part = feature_map[:, y0:y1, x0:x1].numpy()
        np.testing.assert_allclose(row, _naive(part, pooling), rtol=1e-4)


def _naive(part: np.ndarray, pooling: str) -> list[float]:
    channels, height, width = part.shape
    if pooling == "max":
        return [max(part[c].ravel()) for c in range(channels)]
    cells = [(y, x) for y in range(height) for x in range(width)]
    if pooling == "spoc":
        sigma = min(height, width) / 2 / 3
        weight = {
            (y, x): math.exp(
                -((y + 0.5 - height / 2) ** 2 + (x + 0.5 - width / 2) ** 2) / (2 * sigma**2)
            )
            for y, x in cells
        }
        return [sum(part[c, y, x] * weight[y, x] for y, x in cells) for c in range(channels)]
    total = {(y, x): sum(part[c, y, x] for c in range(channels)) for y, x in cells}
    norm = math.sqrt(sum(value**2 for value in total.values()))
    filled = [sum(part[c, y, x] != 0 for y, x in cells) / len(cells) for c in range(channels)]
    return [
        math.log(sum(filled) / filled[c])
        * sum(math.sqrt(total[y, x] / norm) * part[c, y, x] for y, x in cells)
        for c in range(channels)
    ]


def test_a_mask_of_a_box_pools_as_the_box() -> None:
    torch.manual_seed(1)
    feature_map = torch.rand(4, 6, 8)
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 20:50, 10:40] = True
    masks[1, 25:30, 10:15] = True  # A quarter of one cell.
    boxes = torch.tensor([[1.0, 2.0, 4.0, 5.0], [1.0, 2.0, 2.0, 3.0]])
    for pooling in ("mean", "gem"):
        torch.testing.assert_close(
            pool_masks(feature_map, masks, pooling), pool_boxes(feature_map, boxes, pooling)
        )
    with pytest.raises(ValueError, match="pooling of masks 'crow'"):
        pool_masks(feature_map, masks, "crow")


def test_a_box_covers_a_cell_at_least() -> None:
    parts = crops(torch.rand(2, 6, 8), torch.tensor([[7.9, 5.9, 8.0, 6.0], [8.0, 6.0, 8.0, 6.0]]))
    assert [tuple(one.shape) for one in parts] == [(2, 1, 1), (2, 1, 1)]


@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_mean_and_gem_against_loops_over_the_touched_cells(pooling: str) -> None:
    torch.manual_seed(3)
    feature_map = torch.randn(3, 6, 8)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 6.0], [1.2, 2.0, 3.1, 4.5], [7.9, 5.5, 9.0, 7.0]])
    touched = [(0, 0, 8, 6), (1, 2, 4, 5), (7, 5, 8, 6)]
    for row, (x0, y0, x1, y1) in zip(pool_boxes(feature_map, boxes, pooling), touched):
        for channel in range(3):
            cells = [
                float(feature_map[channel, y, x]) for y in range(y0, y1) for x in range(x0, x1)
            ]
            if pooling == "gem":
                cells = [max(value, 1e-6) ** 3 for value in cells]
            expected = sum(cells) / len(cells)
            expected = expected ** (1 / 3) if pooling == "gem" else expected
            assert float(row[channel]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "starts"),
    [
        # 32 x 24: overlaps of squares of 24 with 1, 2 more positions are 2/3, 5/6: nearest .4 is 1.
        (24, 32, [0, 8]),
        # 64 x 20: 1 - 44 / 20 m is < 0, -.1, .27, .45, .56, .63 for m = 1 ... 6: nearest .4 is 4.
        (20, 64, [0, 11, 22, 33, 44]),
    ],
)
def test_rmac_squares_of_the_first_scale_overlap_by_nearest_to_40_percent(
    height: int, width: int, starts: list[int]
) -> None:
    regions = rmac_regions(height, width).tolist()
    assert [x0 for x0, _, x1, _ in regions if x1 - x0 == height] == starts
