"""SPIL's correlation (Eq. 3): a gallery feature map re-weighted by a query's mean kernel.

Shape shorthand: B: images, Q: queries, C: channels, O: output channels, H, W: map size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KERNEL_NORMS = ("none", "l2", "mean")


def normalize_kernel(kernel: Tensor, norm: str) -> Tensor:
    """Bring kernels to one scale (decision D5 of the specification).

    Args:
        kernel: (..., C) mean kernels.
        norm: "none": as it is (the paper). "l2": unit length times sqrt(C), so that a channel is 1
            on average in square. "mean": divided by its mean absolute value.

    Returns:
        (..., C).
    """
    if norm == "none":
        return kernel
    if norm == "l2":
        return F.normalize(kernel, dim=-1) * kernel.shape[-1] ** 0.5
    if norm == "mean":
        return kernel / kernel.abs().mean(dim=-1, keepdim=True).clamp(min=1e-6)
    raise ValueError(f"kernel norm {norm!r} is none of {KERNEL_NORMS}")


def correlate(features: Tensor, kernel: Tensor) -> Tensor:
    """Depth-wise correlation with a 1x1 kernel, which is channel re-weighting.

    Args:
        features: (B, C, H, W) gallery maps.
        kernel: (B, C), one kernel for each map.

    Returns:
        (B, C, H, W).
    """
    assert features.shape[:2] == kernel.shape, f"{features.shape[:2]} != {kernel.shape}"
    return features * kernel[:, :, None, None]


def fold_kernel(weight: Tensor, kernel: Tensor) -> Tensor:
    """Fold kernels into the weights of the convolution that follows the correlation.

    `conv(correlate(Y, x), weight) == conv(Y, fold_kernel(weight, x))`, so one map serves many
    queries without a re-weighted copy of it for each.

    Args:
        weight: (O, C, kh, kw).
        kernel: (Q, C).

    Returns:
        (Q, O, C, kh, kw).
    """
    assert weight.shape[1] == kernel.shape[1], f"{weight.shape} does not take {kernel.shape}"
    return weight[None] * kernel[:, None, :, None, None]


def correlate_and_project(features: Tensor, kernel: Tensor, weight: Tensor) -> Tensor:
    """A 1x1 convolution of the correlation, with the kernels folded into its weights.

    Args:
        features: (B, C, H, W) gallery maps.
        kernel: (B, C), one for each map; or (Q, C) with B = 1: all queries on one map.
        weight: (O, C, 1, 1) of the 1x1 convolution, no bias.

    Returns:
        (max(B, Q), O, H, W).
    """
    folded = fold_kernel(weight, kernel)[..., 0, 0].to(features.dtype)
    maps = torch.matmul(folded, features.flatten(2))
    return maps.unflatten(2, features.shape[2:])
