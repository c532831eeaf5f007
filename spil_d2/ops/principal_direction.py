"""First principal direction of weighted descriptors (the transform of DDT and of SPIL's Eq. 5).

Shape shorthand: N locations of all images together, C channels, B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MAX_EXACT = 256  # an exact eigendecomposition of this side takes as long as the iteration: 3 ms
_BLOCK = 8
_MAX_ITERATIONS = 100
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class PrincipalDirection:
    """A line through descriptor space.

    Attributes:
        mean: (C,) weighted mean of the descriptors.
        direction: (C,) unit vector of largest weighted variance; its sign is arbitrary.
    """

    mean: torch.Tensor
    direction: torch.Tensor

    def project(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Signed coordinate of each location of a map (C, ...) along the line: shape (...)."""
        centered = feature_map.flatten(1).to(self.mean.dtype) - self.mean[:, None]
        return (self.direction @ centered).reshape(feature_map.shape[1:])


def location_weights(
    locations: Sequence[int], image_weights: Sequence[float] | None = None
) -> torch.Tensor:
    """Weights that let each image count the same, however many locations its map has (D16).

    Args:
        locations: number of locations of each of the B maps, all > 0.
        image_weights: B relative weights, not negative and not all 0; None for equal ones.

    Returns:
        (N,) weights that sum to 1, in the order of the maps.
    """
    shares = [1.0] * len(locations) if image_weights is None else list(image_weights)
    if len(shares) != len(locations) or min(shares, default=0) < 0 or sum(shares) <= 0:
        raise ValueError(
            f"{len(locations)} maps need as many weights >= 0 with a sum > 0, got {shares}"
        )
    per_location = torch.tensor([s / sum(shares) / n for s, n in zip(shares, locations)])
    return per_location.repeat_interleave(torch.tensor(list(locations)))


def principal_direction(
    descriptors: torch.Tensor, weights: torch.Tensor | None = None
) -> PrincipalDirection:
    """Weighted mean and first principal direction.

    The cheapest exact way is taken: the N x N Gram matrix if N < C, else the C x C covariance; when
    both are large, subspace iteration from a fixed start, which never forms either matrix.

    Args:
        descriptors: (N, C) floating point; half precision is computed in single.
        weights: (N,) not negative, with a sum > 0; None for equal ones.

    Returns:
        Mean and direction; that of descriptors that all equal their mean is the first axis.
    """
    if descriptors.ndim != 2 or len(descriptors) == 0:
        raise ValueError(f"descriptors are (N, C) with N > 0, got {tuple(descriptors.shape)}")
    if descriptors.dtype in (torch.float16, torch.bfloat16):
        descriptors = descriptors.float()
    if weights is None:
        weights = descriptors.new_ones(len(descriptors))
    weights = weights.to(descriptors)
    if weights.shape != descriptors.shape[:1] or bool((weights < 0).any()) or weights.sum() <= 0:
        raise ValueError(
            f"weights of {len(descriptors)} descriptors: as many values >= 0 with a sum > 0, got "
            f"shape {tuple(weights.shape)}, sum {float(weights.sum())}"
        )
    used = weights > 0
    descriptors, weights = descriptors[used], weights[used] / weights.sum()
    mean = weights @ descriptors
    scaled = (descriptors - mean) * weights.sqrt()[:, None]
    return PrincipalDirection(mean, _first_right_singular_vector(scaled))


def _first_right_singular_vector(matrix: torch.Tensor) -> torch.Tensor:
    """(C,) unit vector v that maximizes |matrix v|, for a matrix (N, C)."""
    n, c = matrix.shape
    # Bounds the eigenvalues, so that nothing under- or overflows in single precision.
    scale = matrix.abs().max()
    if scale == 0:
        first_axis = matrix.new_zeros(c)
        first_axis[0] = 1
        return first_axis
    matrix = matrix / scale
    if min(n, c) > _MAX_EXACT:
        vector = _subspace_iteration(matrix)
        if vector is not None:
            return vector
    if n < c:
        # X X' u = s u makes X' u an eigenvector of X' X with the same eigenvalue.
        vector = matrix.T @ torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
    else:
        vector = torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -1]
    return vector / vector.norm()


def _subspace_iteration(matrix: torch.Tensor) -> torch.Tensor | None:
    """Like `_first_right_singular_vector`; None if the largest values are too close to part."""
    # The start is drawn on the CPU: the same on every device.
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], _BLOCK, generator=generator)
    basis = torch.linalg.qr(start.to(matrix)).Q
    for _ in range(_MAX_ITERATIONS):
        image = matrix.T @ (matrix @ basis)
        values, rotation = torch.linalg.eigh(basis.T @ image)
        vector, value = basis @ rotation[:, -1], values[-1]
        if (image @ rotation[:, -1] - value * vector).norm() <= _TOLERANCE * value:
            return vector / vector.norm()
        basis = torch.linalg.qr(image).Q
    return None
