"""Peak Response Mapping: which pixels a peak of a response map comes from (Zhou et al., CVPR 2018).

Relevance is linear in what starts at a peak, so all peaks of an image go back together, layer by
layer, as the batch dimension of one tensor; whatever depends on the image alone is computed once.

Shape shorthand: P peaks, C channels, (H, W) a feature map, (h, w) the response map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_MIN_NORMALIZER = 1e-10
_CROPPING = ("ConstantPadNdBackward0", "CatBackward0")
"""Steps that cut the relevance into pieces of it."""
_DIAGONAL = ("MulBackward0", "HardtanhBackward0", "ReluBackward0", "ThresholdBackward0")
"""Steps that multiply each cell by a number of its own."""


class relevance_rule(TorchFunctionMode):  # noqa: N801 (used as a context manager)
    """Context manager: convolutions called inside pass relevance instead of a gradient backwards.

    For a convolution with input U, weights W and incoming relevance g, with U' = U - min(U) (over
    one image), W+ = max(W, 0) and Z = conv(U', W+), what goes back is U' * convT(W+, g / Z), where
    g / Z is 0 wherever Z < 1e-10. Outputs are unchanged, and everything that is not a convolution
    (rectifiers, pooling, frozen or eval batch normalization, additions, padding modules) keeps its
    gradient. Nothing is patched, so nothing is left behind when the block ends or raises. Only the
    forward pass belongs inside; batch normalization must be frozen or in eval mode.
    """

    def __torch_function__(
        self,
        func: Callable,
        types: Sequence[type],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.conv2d:
            return func(*args, **(kwargs or {}))
        return _conv2d(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str):
        raise ValueError(f"the relevance rule needs paddings as numbers, got padding={padding!r}")
    geometry = (_pair(stride), _pair(padding), _pair(dilation), groups)
    return _RelevanceConv2d.apply(input, weight, bias, *geometry)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _RelevanceConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        return F.conv2d(input, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        shifted, positive, normalizer = _image_terms(ctx)
        back = _transposed(relevance / normalizer, positive, shifted.shape, ctx.geometry)
        return shifted * back, None, None, None, None, None, None


def _image_terms(node: Any) -> tuple[Tensor, Tensor, Tensor]:
    """U' (N, C, H, W), W+, and Z with infinity where it is too small to divide by."""
    input, weight = node.saved_tensors
    least = input.amin(dim=(1, 2, 3), keepdim=True)
    # Of what a rectifier returns, the least is nearly always 0.
    shifted = input - least if least.any() else input
    positive = weight.clamp(min=0)
    normalizer = F.conv2d(shifted, positive, None, *node.geometry)
    return shifted, positive, torch.threshold_(normalizer, _MIN_NORMALIZER, math.inf)


def _transposed(
    relevance: Tensor, weight: Tensor, input_shape: torch.Size, geometry: tuple
) -> Tensor:
    """The adjoint of the convolution of `geometry` (stride, padding, dilation, groups)."""
    stride, padding, dilation, groups = geometry
    # Channels last makes a 1x1 convolution one matrix product and depth-wise ones fast on a CPU.
    relevance = relevance.contiguous(memory_format=torch.channels_last)
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[-2:])]
    pads = [span - p for span, p in zip(spans, padding)]
    if stride == (1, 1) and groups == 1 and spans == pads == [0, 0]:
        return F.linear(relevance.permute(0, 2, 3, 1), weight[:, :, 0, 0].T).permute(0, 3, 1, 2)
    if stride == (1, 1) and weight.shape[1] == 1 and groups == len(weight) and min(pads) >= 0:
        return F.conv2d(relevance, weight.flip(2, 3), None, 1, pads, dilation, groups)
    # A strided convolution never saw these last rows and columns of its input.
    rest = [
        size - ((out - 1) * s - 2 * p + span + 1)
        for size, out, s, p, span in zip(
            input_shape[-2:], relevance.shape[-2:], stride, padding, spans
        )
    ]
    return F.conv_transpose2d(relevance, weight, None, stride, padding, rest, groups, dilation)


def find_peaks(response: Tensor, *, mean_filter: bool = True) -> Tensor:
    """Strict 3x3 local maxima of a response map, off its border of one cell.

    Args:
        response: (h, w).
        mean_filter: keep only peaks that reach the mean of the map.

    Returns:
        (P, 2) int64, (row, column) in row-major order. A peak is > 0. A map without such a peak
        (too small or too flat) yields the first of its largest cells, so P >= 1.
    """
    if response.ndim != 2:
        raise ValueError(f"a response map is (h, w), got {tuple(response.shape)}")
    # The zeros around the map are neighbours of its border alone, where no peak is.
    neighbours = F.unfold(response[None, None], 3, padding=1).view(9, *response.shape)
    is_peak = response > neighbours[[0, 1, 2, 3, 5, 6, 7, 8]].amax(dim=0)
    is_peak &= response > 0
    if mean_filter:
        is_peak &= response >= response.mean()
    inside = torch.zeros_like(is_peak)
    inside[1:-1, 1:-1] = True
    peaks = (is_peak & inside).nonzero()
    if len(peaks):
        return peaks
    return torch.stack(torch.unravel_index(response.argmax(), response.shape)).unsqueeze(0)


def peak_relevance(
    response: Tensor,
    peaks: Tensor,
    at: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    max_peaks: int = 16,
) -> Tensor:
    """Relevance of each position of a map for each peak of one image's response map.

    Args:
        response: (1, h, w), computed from `at` inside `relevance_rule`.
        peaks: (P, 2) of (row, column), as `find_peaks` returns them; P >= 1.
        at: (1, C, H, W), the map (or picture) to stop at; it must require a gradient.
        dtype: of what travels between layers; bfloat16 halves the memory.
        max_peaks: that go back at the same time, which bounds the memory.

    Returns:
        (P, C, H, W) of `dtype`.
    """
    if response.ndim != 3 or response.shape[0] != 1:
        raise ValueError(f"one response map (1, h, w) at a time, got {tuple(response.shape)}")
    target = _node_of(at)
    order = _path(response, target)
    parts = [_propagate(response, some, order, target, dtype) for some in peaks.split(max_peaks)]
    return torch.cat(parts)


@torch.no_grad()
def _propagate(
    response: Tensor, peaks: Tensor, order: list[Any], target: Any, dtype: torch.dtype
) -> Tensor:
    start = response.new_zeros((len(peaks), *response.shape[1:]), dtype=dtype)
    start[torch.arange(len(peaks)), peaks[:, 0], peaks[:, 1]] = 1
    arriving = {_node_of(response): _Flow(start, torch.ones_like(response, requires_grad=False))}
    for node in order:
        _pass_back(node, arriving, {*order, target})
    return arriving[target].product()


def _node_of(tensor: Tensor) -> Any:
    if not tensor.requires_grad or tensor.output_nr:
        raise ValueError(
            "relevance needs a tensor that requires a gradient, and not one of several"
        )
    return torch.autograd.graph.get_gradient_edge(tensor).node


def _path(response: Tensor, target: Any) -> list[Any]:
    """The nodes on a way from the response to `target` (left out), each before its inputs."""
    finished: list[Any] = []
    leads: dict[Any, bool] = {target: True}
    stack = [(_node_of(response), False)]
    while stack:
        node, is_expanded = stack.pop()
        children = [child for child, _ in node.next_functions if child is not None]
        if is_expanded:
            leads[node] = any(leads[child] for child in children)
            finished.append(node)
        elif node not in leads:
            leads[node] = False
            stack.append((node, True))
            stack.extend((child, False) for child in children)
    if not leads[_node_of(response)]:
        raise ValueError("the response was not computed from the map to stop at")
    return [node for node in reversed(finished) if leads[node]]


@dataclass
class _Flow:
    """Relevance kept as the product of a part per peak and a part of the image alone.

    Steps between convolutions only scale cells, so they touch `scale`, not P maps.
    """

    maps: Tensor  # (P, ...)
    scale: Tensor  # (1, ...), of the dtype of the forward pass

    def product(self) -> Tensor:
        return self.maps * self.scale.to(self.maps.dtype)

    def __add__(self, other: _Flow) -> _Flow:
        total = self.product() + other.product()
        return _Flow(total, self.scale.new_ones((1,) * total.ndim))


def _pass_back(node: Any, arriving: dict[Any, _Flow], wanted: set) -> None:
    flow = arriving.pop(node)
    inputs = [index for index, (child, _) in enumerate(node.next_functions) if child in wanted]
    for index, back in zip(inputs, _step(node, flow, inputs)):
        child = node.next_functions[index][0]
        arriving[child] = arriving[child] + back if child in arriving else back


def _step(node: Any, flow: _Flow, inputs: Sequence[int]) -> list[_Flow]:
    """The relevance of those inputs of the step whose numbers `inputs` holds."""
    name, dtype = node.name(), flow.maps.dtype
    if name.startswith("_RelevanceConv2d"):
        shifted, positive, normalizer = _image_terms(node)
        maps = _Flow(flow.maps, flow.scale / normalizer).product()
        back = _transposed(maps, positive.to(dtype), shifted.shape, node.geometry)
        return [_Flow(back, shifted)]
    if name in _DIAGONAL:
        return [_Flow(flow.maps, _call(node, flow.scale)[index]) for index in inputs]
    if name == "AddBackward0":
        return [flow for _ in inputs]
    if name in _CROPPING:
        scale = flow.scale.expand(1, *flow.maps.shape[1:])
        # PyTorch shows the negative width of a cut as an unsigned number.
        if name == "ConstantPadNdBackward0" and max(node._saved_pad) < 1 << 63:
            return [_Flow(_unpadded(flow.maps, node._saved_pad), _unpadded(scale, node._saved_pad))]
        parts = zip(_call(node, flow.maps), _call(node, scale))
        return [_Flow(*pair) for index, pair in enumerate(parts) if index in inputs]
    backs = torch.func.vmap(lambda one: [_call(node, one)[index] for index in inputs])(
        flow.product().to(flow.scale.dtype).unsqueeze(1)
    )
    return [_Flow(one.squeeze(1).to(dtype), one.new_ones((1,) * (one.ndim - 1))) for one in backs]


def _unpadded(maps: Tensor, pads: Sequence[int]) -> Tensor:
    """A view without the borders of these widths: left, right, top, bottom, ..."""
    for place in range(len(pads) // 2):
        low, high = pads[2 * place], pads[2 * place + 1]
        maps = maps.narrow(-1 - place, low, maps.shape[-1 - place] - low - high)
    return maps


def _call(node: Any, gradient: Tensor) -> Sequence[Tensor]:
    """Gradients of a node's inputs; None, against the type, for those that need none."""
    result = node(gradient)
    return result if isinstance(result, tuple) else (result,)
