"""What backbones have in common that are a chain of stages."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn


def run_stages(
    network: nn.Module, stages: Sequence[str], x: Tensor, wanted: Collection[str]
) -> dict[str, Tensor]:
    """Run submodules one after the other.

    Args:
        network: that has the submodules.
        stages: their names in order.
        x: (N, 3, H, W), what the first one takes.
        wanted: stages whose outputs are returned.

    Returns:
        Name -> (N, C, H / stride, W / stride).
    """
    outputs = {}
    for name in stages:
        x = network.get_submodule(name)(x)
        if name in wanted:
            outputs[name] = x
    return outputs
