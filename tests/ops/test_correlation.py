"""Correlation against depth-wise convolution, and folded against unfolded weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from spil_d2.ops.correlation import (
    correlate,
    correlate_and_project,
    fold_kernel,
    normalize_kernel,
)


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 16, 7, 9, generator=generator)
    return features, torch.rand(3, 16, generator=generator)


def test_correlation_is_depthwise_convolution_with_a_1x1_kernel(maps) -> None:
    features, kernel = maps
    expected = torch.cat(
        [
            F.conv2d(one[None], x[:, None, None, None], groups=16)
            for one, x in zip(features, kernel, strict=True)
        ]
    )
    torch.testing.assert_close(correlate(features, kernel), expected)


@pytest.mark.parametrize("side", [1, 3])
def test_folding_the_kernel_into_the_next_weights_gives_the_same_logits(maps, side: int) -> None:
    features, kernel = maps
    # Of both signs, as centred kernels would be.
    kernel = kernel - 0.5
    weight = torch.randn(5, 16, side, side, generator=torch.Generator().manual_seed(1))
    folded = fold_kernel(weight, kernel)
    for i in range(len(features)):
        unfolded = F.conv2d(
            correlate(features[i : i + 1], kernel[i : i + 1]), weight, padding=side // 2
        )
        here = F.conv2d(features[i : i + 1], folded[i], padding=side // 2)
        torch.testing.assert_close(here, unfolded, atol=1e-5, rtol=1e-5)


def test_projection_of_many_queries_on_one_map(maps) -> None:
    features, kernel = maps
    weight = torch.randn(5, 16, 1, 1, generator=torch.Generator().manual_seed(1))
    one = features[:1]
    expected = torch.cat([F.conv2d(correlate(one, x[None]), weight) for x in kernel])
    torch.testing.assert_close(
        correlate_and_project(one, kernel, weight), expected, atol=1e-5, rtol=1e-5
    )
    paired = torch.cat(
        [
            F.conv2d(correlate(y[None], x[None]), weight)
            for y, x in zip(features, kernel, strict=True)
        ]
    )
    torch.testing.assert_close(
        correlate_and_project(features, kernel, weight), paired, atol=1e-5, rtol=1e-5
    )


def test_kernel_norms_bring_kernels_to_one_scale(maps) -> None:
    _, kernel = maps
    assert torch.equal(normalize_kernel(kernel, "none"), kernel)
    squares = normalize_kernel(10 * kernel, "l2").square().mean(dim=1)
    torch.testing.assert_close(squares, torch.ones(3))
    torch.testing.assert_close(normalize_kernel(10 * kernel, "mean").mean(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="'max' is none of"):
        normalize_kernel(kernel, "max")


@pytest.mark.parametrize("norm", ["l2", "mean"])
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_each_kernel_is_brought_to_scale_by_its_own_channels(norm: str, scale: float) -> None:
    kernels = scale * torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    found = normalize_kernel(kernels, norm)
    for i in range(2):
        for j in range(5):
            values = kernels[i, j].tolist()
            squares, sizes = sum(v * v for v in values) / 4, sum(map(abs, values)) / 4
            divisor = squares**0.5 if norm == "l2" else sizes
            assert found[i, j].tolist() == pytest.approx([v / divisor for v in values], rel=1e-5)
    torch.testing.assert_close(normalize_kernel(kernels[0, 0], norm), found[0, 0])


def test_a_map_and_a_kernel_of_other_channels_are_named(maps) -> None:
    features, kernel = maps
    with pytest.raises(AssertionError, match=r"^torch.Size\(\[3, 16\]\) != "):
        correlate(features, kernel[:, :8])


def test_the_projection_of_a_half_precision_map_is_one(maps) -> None:
    features, kernel = maps
    weight = torch.randn(5, 16, 1, 1, generator=torch.Generator().manual_seed(1))
    found = correlate_and_project(features.bfloat16(), kernel, weight)
    assert found.dtype == torch.bfloat16
    expected = correlate_and_project(features, kernel, weight)
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)
