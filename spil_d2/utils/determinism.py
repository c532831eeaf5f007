"""Arithmetic that gives the same bits each time: what `--deterministic` of every program means.

On a CPU a run is a function of its configuration, its seed and the number of threads, with or
without it: sums of floats depend on the threads that share them, on nothing else. On a GPU some
kernels add with atomics, in the order in which threads happen to come. With `--deterministic`
PyTorch takes another kernel for them, or raises a RuntimeError that names the operation, such as
"... does not have a deterministic implementation": then nothing has been computed in a random
order, and the run stops. The operations of this project that have two ways are RoIAlign
(torchvision compiles another one, which takes Triton; without it `roi_align_backward_kernel` is
named), bilinear `interpolate` where it has a gradient (PyTorch writes it out), and scatters and
indexed additions.
"""

from __future__ import annotations

import os

import torch

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
CUBLAS_WORKSPACES = (":4096:8", ":16:8")
"""What cuBLAS is repeatable with; the first takes 24 MB more of a GPU's memory and is faster."""


def make_deterministic() -> None:
    """From now on every operation of this process gives the same bits each time, or raises.

    Call it in every process before CUDA starts: cuBLAS reads its variable only once.

    Raises:
        ValueError: the environment gives cuBLAS a workspace that is not repeatable.
        RuntimeError: CUDA has started without the variable.
    """
    given = os.environ.get(CUBLAS_VARIABLE)
    if given is None:
        if torch.cuda.is_initialized():
            raise RuntimeError(
                f"CUDA has started without {CUBLAS_VARIABLE}: call make_deterministic() first, or "
                f"set the variable to {CUBLAS_WORKSPACES[0]} in the environment"
            )
        os.environ[CUBLAS_VARIABLE] = CUBLAS_WORKSPACES[0]
    elif given not in CUBLAS_WORKSPACES:
        raise ValueError(
            f"{CUBLAS_VARIABLE} is {given!r}, with which cuBLAS is not repeatable: use one of "
            f"{CUBLAS_WORKSPACES}, or unset it"
        )
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def draw_seed() -> int:
    """A seed by chance, in [0, 2 ** 31)."""
    return int.from_bytes(os.urandom(4), "big") >> 1
