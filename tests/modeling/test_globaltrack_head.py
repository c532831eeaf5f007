"""GlobalTrack's modulators against convolutions of one query at a time."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.nn import functional as F

from spil_d2.modeling.globaltrack_head import QUERY_REGION, GlobalTrack, RoIModulator, RPNModulator

WIDTH, CHANNELS, SIZE, QUERIES = 6, 4, 5, 3
SHAPE = {"p2": ShapeSpec(WIDTH, stride=4), "p3": ShapeSpec(WIDTH, stride=8)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _randomize(module: torch.nn.Module) -> None:
    """Weights and biases large enough that none of them can be left out unseen."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("images", [1, QUERIES])
@pytest.mark.parametrize("depthwise", [False, True])
def test_rpn_modulator_is_the_naive_loop(images: int, depthwise: bool) -> None:
    modulator = RPNModulator(WIDTH, CHANNELS, SIZE, depthwise=depthwise)
    _randomize(modulator)
    maps, queries = torch.randn(images, WIDTH, 7, 9), torch.randn(QUERIES, WIDTH, SIZE, SIZE)
    with torch.no_grad():
        together = modulator(maps, queries)
        assert together.shape == (QUERIES, CHANNELS, 7, 9)
        for i, query in enumerate(queries):
            groups = WIDTH if depthwise else 1
            m = F.conv2d(query[None], modulator.query.weight, modulator.query.bias, groups=groups)
            assert m.shape == (1, WIDTH, 1, 1)
            x = maps[min(i, images - 1)][None]
            expected = F.conv2d(x * m, modulator.out.weight, modulator.out.bias)
            torch.testing.assert_close(together[i : i + 1], expected, atol=1e-4, rtol=1e-4)


def test_roi_modulator_is_the_naive_loop() -> None:
    modulator = RoIModulator(WIDTH, CHANNELS)
    _randomize(modulator)
    regions = torch.randn(7, WIDTH, SIZE, SIZE)
    queries = torch.randn(QUERIES, WIDTH, SIZE, SIZE)
    owners = torch.tensor([0, 0, 2, 2, 2, 1, 0])
    with torch.no_grad():
        together = modulator(regions, queries, owners)
        for region, owner, found in zip(regions, owners, together, strict=True):
            z = F.conv2d(queries[owner], modulator.query.weight, modulator.query.bias, padding=1)
            x = F.conv2d(region, modulator.gallery.weight, modulator.gallery.bias, padding=1)
            expected = F.conv2d(x * z, modulator.out.weight, modulator.out.bias)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert modulator(regions[:0], queries, owners[:0]).shape == (0, CHANNELS, SIZE, SIZE)


def test_each_level_has_its_own_modulator_and_roi_heads_get_the_raw_maps() -> None:
    head = GlobalTrack(SHAPE, size=SIZE, channels=CHANNELS)
    _randomize(head)
    features = {name: torch.randn(1, WIDTH, 4, 4) for name in SHAPE}
    regions = torch.randn(QUERIES, WIDTH, SIZE, SIZE)
    kernel = head.to_kernel(regions)
    assert kernel is regions
    with torch.no_grad():
        rpn_maps, roi_maps = head(features, kernel)
        for name in SHAPE:
            torch.testing.assert_close(
                rpn_maps[name], head.modulators[name](features[name], regions)
            )
            assert roi_maps[name] is features[name], "the RoI heads must see the raw map"
        same = dict.fromkeys(SHAPE, features["p2"])
        maps, _ = head(same, kernel)
        assert not torch.allclose(maps["p2"], maps["p3"])
    assert roi_maps[QUERY_REGION] is regions
    assert {n: (s.channels, s.stride) for n, s in head.rpn_shape.items()} == {
        "p2": (CHANNELS, 4),
        "p3": (CHANNELS, 8),
    }
    region = head.roi_shape[QUERY_REGION]
    assert (region.channels, region.height, region.width) == (WIDTH, SIZE, SIZE)
    assert head.roi_shape["p3"].channels == WIDTH


def test_initialization() -> None:
    for module in (RPNModulator(64, 64, 7), RoIModulator(64, 64)):
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all()
            else:
                assert parameter.std().item() == pytest.approx(0.01, rel=0.05)
                assert abs(parameter.mean().item()) < 1e-3


def test_levels_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="equal width"):
        GlobalTrack({**SHAPE, "p4": ShapeSpec(WIDTH + 1, stride=16)}, size=SIZE)


def test_the_official_network_has_the_parameters_that_the_specification_counts() -> None:
    levels = {f"p{i}": ShapeSpec(256, stride=2**i) for i in range(2, 7)}
    with torch.device("meta"):
        head, roi = GlobalTrack(levels, size=7), RoIModulator(256, 256)

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert sum(count(one.query) for one in head.modulators.values()) == 16_057_600
    assert sum(count(one.out) for one in head.modulators.values()) == 328_960
    assert count(roi) == 1_245_952
