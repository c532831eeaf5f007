"""PCA-whitening of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..ops.similarity import unit_rows
from ..utils.reading import open_arrays

_EPSILON = 1e-9


@dataclass(frozen=True)
class Whitening:
    """A centre and a projection that makes embeddings uncorrelated with variance 1.

    Attributes:
        mean: (D,) float32.
        projection: (D, K) float32, columns by falling variance.
    """

    mean: np.ndarray
    projection: np.ndarray

    def __post_init__(self) -> None:
        if self.projection.ndim != 2 or self.mean.shape != self.projection.shape[:1]:
            raise ValueError(f"whitening: {self.mean.shape} does not fit {self.projection.shape}")

    @classmethod
    def fit(cls, embeddings: np.ndarray, dimension: int) -> Whitening:
        """Fit on (R, D) embeddings, best of pictures other than those that are searched.

        Args:
            embeddings: (R, D), L2-normalized, R > dimension.
            dimension: K, number of components kept, at most D.
        """
        count, size = embeddings.shape
        if not 0 < dimension <= min(size, count - 1):
            raise ValueError(
                f"whitening to {dimension} components needs more than {dimension} embeddings of at "
                f"least that dimension, got {count} of {size}"
            )
        mean = embeddings.mean(axis=0, dtype=np.float64)
        covariance = np.cov(embeddings.astype(np.float64), rowvar=False).reshape(size, size)
        values, vectors = np.linalg.eigh(covariance)
        kept = np.argsort(values)[::-1][:dimension]
        projection = vectors[:, kept] / np.sqrt(np.maximum(values[kept], _EPSILON))
        return cls(mean.astype(np.float32), projection.astype(np.float32))

    def apply(self, embeddings: np.ndarray) -> np.ndarray:
        """(R, D) -> (R, K) float32, L2-normalized."""
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            raise ValueError(f"whitening of {len(self.mean)} dimensions got {embeddings.shape}")
        white = (embeddings - self.mean) @ self.projection
        return unit_rows(white).astype(np.float32)

    def save(self, path: str | Path) -> None:
        """Write one .npz (no pickle)."""
        with open(path, "wb") as f:
            np.savez(f, mean=self.mean, projection=self.projection)

    @classmethod
    def load(cls, path: str | Path) -> Whitening:
        """Read what `save` wrote; ValueError naming the file where it is something else."""
        with open_arrays(path, "file of whitening") as arrays:
            mean = arrays.read("mean", "f", None)
            return cls(mean, arrays.read("projection", "f", len(mean), None))
