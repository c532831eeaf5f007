"""Relevance back-propagation against its rule cell by cell, and peaks against a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

from spil_d2.ops.relevance import find_peaks, peak_relevance, relevance_rule


class TinyNet(nn.Module):
    """Every kind of step that a backbone has."""

    def __init__(self, batch_norm: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = batch_norm(8)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.expand = nn.Conv2d(8, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False)
        self.project = nn.Conv2d(16, 8, 1)
        self.head = nn.Conv2d(8, 12, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.relu(self.norm(self.stem(F.pad(x, (0, 1, 0, 1)))))
        low = self.pool(x)
        x = F.relu6(self.grouped(F.relu(self.expand(low))))
        x = low + self.project(F.relu6(self.depthwise(x)))
        return low, F.relu(self.head(x)).mean(dim=1)


def build_net(batch_norm: type[nn.Module]) -> TinyNet:
    torch.manual_seed(0)
    net = TinyNet(batch_norm).double()
    for name, tensor in net.norm.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor).abs() + 0.1 if "var" in name else torch.randn(8))
    return net.eval().requires_grad_(False)


def naive_conv(conv: nn.Conv2d, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The rule cell by cell: each output hands its relevance to its inputs in parts of u' * w+."""
    shifted = F.pad(x[0] - x.min(), [conv.padding[0]] * 4)
    positive = conv.weight.clamp(min=0)
    back = torch.zeros_like(shifted)
    per_out, per_in = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    (s, _), (d, _), (k, _) = conv.stride, conv.dilation, conv.kernel_size
    for c, row, column in g[0].nonzero().tolist():
        first = c // per_out * per_in
        rows = slice(row * s, row * s + d * (k - 1) + 1, d)
        columns = slice(column * s, column * s + d * (k - 1) + 1, d)
        parts = shifted[first : first + per_in, rows, columns] * positive[c]
        if parts.sum() >= 1e-10:
            back[first : first + per_in, rows, columns] += (
                g[0, c, row, column] * parts / parts.sum()
            )
    p = conv.padding[0]
    return back[None, :, p : back.shape[1] - p, p : back.shape[2] - p]


def naive_relevance(net: TinyNet, image: torch.Tensor, peak: tuple[int, int]) -> list[torch.Tensor]:
    """Relevance (at the pooled map, at the picture) of one peak, written out for this net."""

    def ordinary(function, x, g):
        x = x.clone().requires_grad_(True)
        return torch.autograd.grad(function(x), x, g)[0]

    padded = F.pad(image, (0, 1, 0, 1))
    a = net.stem(padded)
    b = F.relu(net.norm(a))
    low = net.pool(b)
    c = net.expand(low)
    d = net.grouped(F.relu(c))
    e = net.depthwise(F.relu6(d))
    x = low + net.project(F.relu6(e))
    h = net.head(x)
    response = F.relu(h).mean(dim=1)
    start = torch.zeros_like(response)
    start[0, peak[0], peak[1]] = 1
    g = ordinary(lambda t: F.relu(t).mean(dim=1), h, start)
    skip = naive_conv(net.head, x, g)
    g = ordinary(F.relu6, e, naive_conv(net.project, F.relu6(e), skip))
    g = ordinary(F.relu6, d, naive_conv(net.depthwise, F.relu6(d), g))
    g = ordinary(F.relu, c, naive_conv(net.grouped, F.relu(c), g))
    at_low = skip + naive_conv(net.expand, low, g)
    g = ordinary(lambda t: net.pool(F.relu(net.norm(t))), a, at_low)
    return [at_low, naive_conv(net.stem, padded, g)[..., :-1, :-1]]


@pytest.mark.parametrize("batch_norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_matches_the_rule_cell_by_cell(batch_norm: type[nn.Module]) -> None:
    net = build_net(batch_norm)
    image = torch.randn(1, 3, 24, 32, dtype=torch.float64)
    pixels = image.clone().requires_grad_(True)
    with relevance_rule():
        low, response = net(pixels)
    peaks = torch.tensor([[0, 0], [1, 2], [2, 3]])
    at_low = peak_relevance(response, peaks, low, dtype=torch.float64)
    at_pixels = peak_relevance(response, peaks, pixels, dtype=torch.float64)
    for index, peak in enumerate(peaks.tolist()):
        expected_low, expected_pixels = naive_relevance(net, image, tuple(peak))
        assert expected_pixels.abs().sum() > 0
        torch.testing.assert_close(at_low[index : index + 1], expected_low, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            at_pixels[index : index + 1], expected_pixels, rtol=1e-9, atol=1e-12
        )


def test_autograd_gives_the_same_and_peaks_together_are_peaks_one_by_one() -> None:
    net = build_net(FrozenBatchNorm2d).float()
    pixels = torch.randn(1, 3, 40, 32, requires_grad=True)
    with relevance_rule():
        _, response = net(pixels)
    peaks = torch.tensor([[1, 1], [3, 2]])
    together = peak_relevance(response, peaks, pixels)
    for index, (row, column) in enumerate(peaks.tolist()):
        alone = peak_relevance(response, peaks[index : index + 1], pixels)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-4, atol=1e-7)
        by_autograd = torch.autograd.grad(response[0, row, column], pixels, retain_graph=True)[0]
        torch.testing.assert_close(alone, by_autograd, rtol=1e-4, atol=1e-7)


def test_outputs_are_unchanged_and_gradients_are_ordinary_again_after_an_error() -> None:
    net = build_net(FrozenBatchNorm2d)
    image = torch.randn(1, 3, 24, 32, dtype=torch.float64, requires_grad=True)
    _, plain = net(image)
    before = torch.autograd.grad(plain.sum(), image)[0]
    with pytest.raises(RuntimeError, match="inside"), relevance_rule():
        _, changed = net(image)
        raise RuntimeError("inside")
    assert torch.equal(plain, changed)
    assert not torch.allclose(torch.autograd.grad(changed.sum(), image)[0], before)
    _, again = net(image)
    assert torch.equal(torch.autograd.grad(again.sum(), image)[0], before)


def test_stop_map_must_lead_to_the_response() -> None:
    net = build_net(FrozenBatchNorm2d).float()
    pixels = torch.randn(1, 3, 24, 32, requires_grad=True)
    with relevance_rule():
        _, response = net(pixels)
    other = torch.randn(1, 3, 24, 32, requires_grad=True)
    with pytest.raises(ValueError, match="^the response was not computed from"):
        peak_relevance(response, torch.tensor([[1, 1]]), other)


def test_peaks_are_strict_off_the_border_and_reach_the_mean() -> None:
    response = torch.zeros(7, 9)
    response[0, 4] = 9.0  # border
    response[2, 2] = 5.0  # peak
    response[4, 5] = response[4, 6] = 3.0  # a plateau is not strict
    response[5, 1] = 0.1  # below the mean
    assert find_peaks(response).tolist() == [[2, 2]]
    assert find_peaks(response, mean_filter=False).tolist() == [[2, 2], [5, 1]]


def test_a_peak_may_equal_the_mean_and_is_above_0() -> None:
    response = torch.full((5, 5), 1.0)
    response[1:4, 1:4] = 0.0
    response[2, 2] = 1.0
    response[0, :4] = 3.0  # 8 more, which the 8 cells around the peak lack
    assert response.mean() == 1
    assert find_peaks(response).tolist() == [[2, 2]]
    response = torch.full((5, 7), -1.0)
    response[2, 2] = response[2, 4] = 0.0
    assert find_peaks(response).tolist() == [[2, 2]]
    response[2, 4] = 1e-6
    assert find_peaks(response).tolist() == [[2, 4]]


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (6, 6)])
def test_a_map_without_a_peak_yields_its_largest_cell(shape: tuple[int, int]) -> None:
    response = torch.ones(shape)
    response[-1, -1] = 2.0
    assert find_peaks(response).tolist() == [[shape[0] - 1, shape[1] - 1]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mean_filter", [True, False])
def test_peaks_are_those_of_a_loop_over_all_cells(seed: int, mean_filter: bool) -> None:
    # Coarse values, so that neighbours are often equal; some are below 0.
    generator = torch.Generator().manual_seed(seed)
    response = torch.randint(-2, 9, (9, 12), generator=generator).float()
    mean = sum(response.flatten().tolist()) / response.numel()
    expected = []
    for y in range(1, 8):
        for x in range(1, 11):
            value = float(response[y, x])
            around = [
                float(response[y + a, x + b]) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b
            ]
            if value > 0 and all(value > other for other in around):
                if not mean_filter or value >= mean:
                    expected.append([y, x])
    assert expected
    assert find_peaks(response, mean_filter=mean_filter).tolist() == expected


def rule_by_gradient(
    x: torch.Tensor, weight: torch.Tensor, relevance: torch.Tensor, **geometry: Any
) -> torch.Tensor:
    """The rule image by image: the adjoint is the gradient of the convolution itself."""
    backs = []
    for image, g in zip(x, relevance, strict=True):
        shifted = (image - image.min())[None].requires_grad_(True)
        normalizer = F.conv2d(shifted, weight.clamp(min=0), **geometry)
        ratio = torch.where(normalizer < 1e-10, 0, g[None] / normalizer).detach()
        back = torch.autograd.grad(normalizer, shifted, ratio)[0]
        backs.append((shifted * back).detach())
    return torch.cat(backs)


# Channels in and out, side of the kernel, and what F.conv2d is given beside.
CONVOLUTIONS = [
    (4, 6, (3, 3), {}),
    (4, 6, (1, 1), {}),
    (4, 6, (2, 1), {}),
    (4, 6, (1, 2), {}),
    (4, 6, (1, 1), {"stride": 2}),
    (4, 6, (1, 1), {"stride": (1, 2)}),
    (4, 6, (1, 1), {"stride": (2, 1)}),
    (4, 6, (1, 1), {"groups": 2}),
    (4, 6, (1, 1), {"padding": 1}),
    (4, 6, (3, 3), {"padding": 2}),
    (4, 6, (3, 3), {"padding": (1,), "dilation": (2,)}),
    (4, 6, (3, 5), {"stride": (2, 1), "padding": (1, 3), "dilation": (1, 2)}),
    (4, 6, (5, 3), {"stride": (2, 3), "padding": (0, 2), "groups": 2}),
    (4, 4, (5, 3), {"padding": (2, 1), "groups": 4}),
    (4, 4, (3, 3), {"padding": (3, 0), "groups": 4}),
    (4, 4, (3, 3), {"stride": 2, "groups": 4}),
    (4, 4, (3, 3), {"stride": (1, 2), "padding": 1, "groups": 4}),
    (4, 4, (3, 3), {"stride": (2, 1), "padding": 1, "groups": 4}),
    (4, 8, (3, 3), {"padding": 1, "groups": 4}),
    (8, 4, (1, 3), {"padding": (0, 1), "groups": 4}),
    (4, 1, (3, 3), {"padding": 1}),
    (1, 4, (3, 3), {"padding": 1}),
]


@pytest.mark.parametrize(("inputs", "outputs", "side", "geometry"), CONVOLUTIONS)
def test_any_convolution_passes_relevance_by_the_rule(
    inputs: int, outputs: int, side: tuple[int, int], geometry: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = geometry.get("groups", 1)
    weight = torch.randn(outputs, inputs // groups, *side, generator=generator).double()
    # Three images whose least values differ.
    x = torch.randn(3, inputs, 9, 12, generator=generator).double()
    x = (x + torch.arange(3)[:, None, None, None]).requires_grad_(True)
    with relevance_rule():
        y = F.conv2d(x, weight, **geometry)
    assert torch.equal(y, F.conv2d(x, weight, **geometry))
    relevance = torch.randn(y.shape, generator=generator).double()
    expected = rule_by_gradient(x.detach(), weight, relevance, **geometry)
    found = torch.autograd.grad(y, x, relevance)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "side", "padding", "groups"),
    [(3, 1, 0, 1), (4, 5, 2, 4), (4, 3, 2, 4), (4, 3, 0, 4), (4, 3, (2, 1), 4)],
)
def test_the_usual_convolutions_go_back_the_fast_way(
    inputs: int, side: int, padding: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.rand(4, inputs // groups, side, side)
    x = torch.rand(1, inputs, 9, 12, requires_grad=True)
    with relevance_rule():
        y = F.conv2d(x, weight, padding=padding, groups=groups)

    def fail(*_: object) -> None:
        raise AssertionError("the slow way")

    monkeypatch.setattr(F, "conv_transpose2d", fail)
    # Relevance is neither made nor lost where nothing is padded.
    total = torch.autograd.grad(y.sum(), x)[0].sum()
    assert total.item() == pytest.approx(y.numel(), rel=1e-4) if not padding else total > 0


def cropping_net(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A response map behind every kind of step that cuts or joins maps."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(4, 3, 3, 3, generator=generator)
    last = torch.rand(5, 9, 3, 3, generator=generator)
    a = F.relu(F.conv2d(x, first, padding=1))
    y = torch.cat([other, a, a * torch.rand(4, 1, 1, generator=generator)], dim=1)
    y = F.pad(F.pad(y, (1, 2, 3, 0)), (-2, 1, 0, -1))
    return F.relu(F.conv2d(y, last)).mean(dim=1)


@pytest.mark.parametrize("needs_gradient", [True, False])
def test_cuts_and_joins_pass_relevance_as_autograd_does(needs_gradient: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 9, 12, requires_grad=True)
    other = torch.rand(1, 1, 9, 12, requires_grad=needs_gradient)
    with relevance_rule():
        response = cropping_net(x, other)
    peaks = torch.tensor([[2, 3], [5, 0], [8, 10]])
    found = peak_relevance(response, peaks, x)
    for index, (row, column) in enumerate(peaks.tolist()):
        expected = torch.autograd.grad(response[0, row, column], x, retain_graph=True)[0][0]
        assert expected.abs().sum() > 0
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-7)


def test_half_precision_travels_between_layers_and_stays_close() -> None:
    net = build_net(FrozenBatchNorm2d).float()
    pixels = torch.randn(1, 3, 40, 32, requires_grad=True)
    with relevance_rule():
        low, response = net(pixels)
    peaks = torch.tensor([[1, 1], [3, 2]])
    for at in (low, pixels):
        exact = peak_relevance(response, peaks, at)
        half = peak_relevance(response, peaks, at, dtype=torch.bfloat16)
        assert half.dtype == torch.bfloat16 and exact.dtype == torch.float32
        assert float((half.float() - exact).norm() / exact.norm()) < 0.05


def test_steps_that_every_backbone_has_do_not_take_the_general_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    general, vmap = [], torch.func.vmap

    def spy(function: Callable) -> Callable:
        general.append(function)
        return vmap(function)

    monkeypatch.setattr(torch.func, "vmap", spy)
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), FrozenBatchNorm2d(3)
    x = torch.randn(1, 3, 9, 12, requires_grad=True)
    with relevance_rule():
        y = F.relu6(norm(conv(F.pad(x, (0, 1, 0, 1)))))
        response = conv(F.relu(torch.cat([y + conv(y)]))).mean(dim=1)
    peak_relevance(response, torch.tensor([[1, 1]]), x)
    assert len(general) == 1  # the mean


def test_what_is_no_response_map_or_no_map_to_stop_at_is_named() -> None:
    net = build_net(FrozenBatchNorm2d).float()
    pixels = torch.randn(1, 3, 24, 32, requires_grad=True)
    with relevance_rule():
        low, response = net(pixels)
    peaks = torch.tensor([[1, 1]])
    for wrong in (response[0], response[:, 0], response.expand(2, -1, -1)):
        message = rf"^one response map \(1, h, w\) at a time, got \({wrong.shape[0]}, "
        with pytest.raises(ValueError, match=message):
            peak_relevance(wrong, peaks, low)
    for wrong in (pixels.detach(), pixels.chunk(3, dim=1)[1]):
        with pytest.raises(ValueError, match="^relevance needs a tensor that requires a gradient"):
            peak_relevance(response, peaks, wrong)
    with pytest.raises(ValueError, match=r"^a response map is \(h, w\), got \(1, "):
        find_peaks(response)
    weight = torch.rand(1, 3, 3, 3)
    with relevance_rule(), pytest.raises(ValueError, match="^the relevance rule .* padding='same'"):
        F.conv2d(pixels, weight, padding="same")
