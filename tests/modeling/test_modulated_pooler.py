"""Regions of a correlation that is not stored equal regions of one that is."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from spil_d2.modeling.modulated_pooler import ModulatedMap, ModulatedPooler
from spil_d2.ops.correlation import correlate

STRIDES = (4, 8, 16)


def boxes(generator: torch.Generator, counts: list[int]) -> list[Boxes]:
    """Of 5 to 120 pixels, so that all levels get some."""
    lists = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 60
        side = 5 + torch.rand(count, 2, generator=generator) ** 2 * 115
        lists.append(Boxes(torch.cat([corner, corner + side], dim=1)))
    return lists


@pytest.mark.parametrize("shared", [True, False], ids=["one map", "a map a kernel"])
@pytest.mark.parametrize("levels", [1, 3])
def test_regions_and_gradients_equal_those_of_the_product(levels: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(levels)
    counts = [5, 0, 7]
    maps = [
        torch.randn(1 if shared else 3, 6, 192 // s, 192 // s, generator=generator)
        for s in STRIDES[:levels]
    ]
    kernels = [torch.randn(3, 6, generator=generator) for _ in maps]
    lists = boxes(generator, counts)
    pooler = ROIPooler(3, [1 / s for s in STRIDES[:levels]], 2, "ROIAlignV2", 56)
    inputs = [one.requires_grad_() for one in (*maps, *kernels)]
    expanded = [y.expand(3, -1, -1, -1) for y in maps]
    wanted = pooler([correlate(y, x) for y, x in zip(expanded, kernels)], lists)
    found = ModulatedPooler(pooler)([ModulatedMap(y, x) for y, x in zip(maps, kernels)], lists)
    assert found.shape == (12, 6, 3, 3)
    assert torch.allclose(found, wanted, atol=1e-5)
    weights = torch.randn(wanted.shape, generator=generator)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (wanted, found)]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients))


def test_plain_maps_are_pooled_as_ever() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 4, 24, 24, generator=generator)]
    lists = boxes(generator, [3, 4])
    pooler = ROIPooler(3, [1 / 8], 2, "ROIAlignV2")
    assert torch.equal(ModulatedPooler(pooler)(maps, lists), pooler(maps, lists))
