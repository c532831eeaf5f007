"""EfficientNet-Lite and its fused map."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from spil_d2.backbones import EfficientNetLite, FusedLevels
from spil_d2.backbones.efficientnet_lite import FEATURES

CHANNELS = {
    "lite0": {"stem": 16, "c2": 24, "c3": 40, "c4": 112, "c5": 320, "head": 1280},
    "lite2": {"stem": 16, "c2": 24, "c3": 48, "c4": 120, "c5": 352, "head": 1280},
}
STRIDES = {"stem": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32, "head": 32}


def _picture(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", CHANNELS)
def test_maps_have_the_shapes_that_are_told(variant: str) -> None:
    network = EfficientNetLite(variant=variant, out_features=FEATURES).eval()
    shapes = network.output_shape()
    assert {name: one.channels for name, one in shapes.items()} == CHANNELS[variant]
    assert {name: one.stride for name, one in shapes.items()} == STRIDES
    with torch.no_grad():
        maps = network(_picture())
    for name, feature_map in maps.items():
        stride = STRIDES[name]
        expected = (1, CHANNELS[variant][name], 64 // stride, 96 // stride)
        assert feature_map.shape == expected, name


def test_folded_normalization_gives_the_same_maps() -> None:
    plain = EfficientNetLite(out_features=FEATURES, freeze_at=5).eval()
    folded = EfficientNetLite(out_features=FEATURES, freeze_at=5, fold_normalization=True).eval()
    with torch.no_grad():
        expected, found = plain(_picture()), folded(_picture())
    for name in FEATURES:
        scale = expected[name].abs().max()
        difference = (expected[name] - found[name]).abs().max() / scale
        assert difference < 1e-4, f"{name}: {difference:.2g} of the largest value"
    num_plain, num_folded = (len(list(one.modules())) for one in (plain, folded))
    assert num_folded <= num_plain
    assert not any(p.requires_grad for p in folded.parameters())


def test_folding_what_may_train_is_refused() -> None:
    with pytest.raises(ValueError, match="freeze_at = 5"):
        EfficientNetLite(pretrained=False, fold_normalization=True)


@pytest.mark.parametrize(("freeze_at", "frozen"), [(0, 0), (2, 2), (5, 6)])
def test_stages_freeze_from_the_stem_on(freeze_at: int, frozen: int) -> None:
    network = EfficientNetLite(out_features=FEATURES, pretrained=False, freeze_at=freeze_at)
    trained = [
        any(p.requires_grad for p in network.get_submodule(name).parameters()) for name in FEATURES
    ]
    assert trained == [False] * frozen + [True] * (len(FEATURES) - frozen)


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="'lite9'"):
        EfficientNetLite(variant="lite9")
    with pytest.raises(ValueError, match="c9"):
        EfficientNetLite(out_features=["c9"])
    network = EfficientNetLite(out_features=["c2"], pretrained=False)
    with pytest.raises(ValueError, match="multiples of 32"):
        network(_picture(64, 100))


def test_the_fused_map_stacks_unit_levels_at_one_stride() -> None:
    levels = ["c3", "c4", "c5"]
    bottom_up = EfficientNetLite(out_features=levels, freeze_at=5)
    fused = FusedLevels(bottom_up, levels, stride=16).eval()
    spec = fused.output_shape()["fused"]
    assert (spec.channels, spec.stride) == (40 + 112 + 320, 16)
    assert fused.size_divisibility == 32
    with torch.no_grad():
        found, maps = fused(_picture())["fused"], bottom_up(_picture())
    assert found.shape == (1, 472, 4, 6)
    # c4 has the stride already; each cell has mean square 1.
    c4 = found[:, 40:152]
    torch.testing.assert_close(c4.square().mean(dim=1), torch.ones(1, 4, 6))
    cosine = F.cosine_similarity(c4, maps["c4"], dim=1)
    torch.testing.assert_close(cosine, torch.ones(1, 4, 6))
    # c3, of stride 8, is averaged over 2 x 2 cells.
    unit = maps["c3"][0] / maps["c3"][0].norm(dim=0) * 40**0.5
    expected = sum(unit[:, dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)) / 4
    torch.testing.assert_close(found[0, :40], expected)
