"""What the RPN and the RoI heads see (D6), against loops over maps, cells and channels."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec

from spil_d2.modeling.correlation_head import ChannelReweighting, ProjectedReweighting
from spil_d2.modeling.modulated_pooler import ModulatedMap

SHAPE = {"p3": ShapeSpec(3, stride=8), "p4": ShapeSpec(3, stride=16)}


@pytest.fixture
def maps() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One image's two levels and two queries' kernels."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"p3": (4, 5), "p4": (2, 3)}
    features = {n: torch.randn(1, 3, *size, generator=generator) for n, size in sizes.items()}
    return features, torch.rand(2, 3, generator=generator)


def naive_product(features: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """C[h, w, c] = Y[h, w, c] x[c] for each query."""
    found = torch.zeros(len(kernel), *features.shape[1:])
    for q in range(len(kernel)):
        for c in range(features.shape[1]):
            for y in range(features.shape[2]):
                for x in range(features.shape[3]):
                    found[q, c, y, x] = features[0, c, y, x] * kernel[q, c]
    return found


@pytest.mark.parametrize("head_input", ["corr", "raw", "concat"])
def test_the_correlation_goes_to_the_rpn_and_as_chosen_to_the_heads(maps, head_input: str) -> None:
    features, kernel = maps
    head = ChannelReweighting(SHAPE, head_input=head_input)
    with torch.no_grad():
        rpn_maps, roi_maps = head(features, kernel)
    for name, y in features.items():
        product, raw = naive_product(y, kernel), y.expand(2, -1, -1, -1)
        torch.testing.assert_close(rpn_maps[name], product)
        expected = {"corr": product, "raw": raw, "concat": torch.cat([product, raw], dim=1)}
        found = roi_maps[name]
        found = found.product() if isinstance(found, ModulatedMap) else found
        torch.testing.assert_close(found, expected[head_input])
        assert head.roi_shape[name].channels == expected[head_input].shape[1]


def test_the_linear_map_of_a_level_is_the_identity_at_first_and_learns(maps) -> None:
    features, kernel = maps
    head = ChannelReweighting(SHAPE, level_map=True)
    with torch.no_grad():
        plain, _ = ChannelReweighting(SHAPE)(features, kernel)
        first, _ = head(features, kernel)
        head.level_maps["p3"].weight.copy_(torch.arange(9.0).view(3, 3))
        second, _ = head(features, kernel)
    moved = torch.tensor(
        [[sum((3 * i + j) * float(x[j]) for j in range(3)) for i in range(3)] for x in kernel]
    )
    for name in SHAPE:
        torch.testing.assert_close(first[name], plain[name])
    torch.testing.assert_close(second["p3"], naive_product(features["p3"], moved))
    torch.testing.assert_close(second["p4"], plain["p4"])


def test_the_projected_correlation_by_loops(maps) -> None:
    """relu(W (Y x) + U Y + b), the kernel of length sqrt(C), without further convolutions."""
    features, kernel = maps
    head = ProjectedReweighting(SHAPE, channels=4, num_convs=0)
    with torch.no_grad():
        for layer in (*head.correlation.values(), *head.raw.values()):
            for parameter in layer.parameters():
                parameter.normal_()
        found, same = head(features, kernel)
        assert found is same
        for name, y in features.items():
            w, u = head.correlation[name].weight[:, :, 0, 0], head.raw[name].weight[:, :, 0, 0]
            for q, x in enumerate(kernel):
                scale = 3**0.5 / sum(float(v) ** 2 for v in x) ** 0.5
                for o in range(4):
                    total = sum(
                        (w[o, c] * x[c] * scale + u[o, c]) * y[0, c] for c in range(3)
                    ) + head.raw[name].bias[o]  # fmt: skip
                    torch.testing.assert_close(found[name][q, o], total.clamp(min=0))
