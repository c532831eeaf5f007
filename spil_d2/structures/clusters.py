"""Which regions show the same instance, as far as clustering can tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..utils.reading import open_arrays

NOISE = -1
"""Label of what belongs to no cluster; it is never trained on."""


@dataclass(frozen=True)
class ClusterAssignment:
    """Pseudo identities of N regions.

    Attributes:
        labels: (N,) int64, clusters 0 .. C - 1 by size, the largest first, or NOISE.
    """

    labels: np.ndarray

    def __post_init__(self) -> None:
        labels = self.labels
        if labels.ndim != 1 or labels.dtype != np.int64:
            raise ValueError(f"labels are (N,) int64, got {labels.shape} {labels.dtype}")
        if labels.min(initial=0) < NOISE:
            raise ValueError(f"labels are at least {NOISE}, got {labels.min()}")
        if labels.max(initial=NOISE) >= len(labels):
            raise ValueError(f"{len(labels)} regions have no cluster of number {labels.max()}")
        sizes = self.sizes
        # Behind a gap there is a larger cluster.
        if np.any(sizes[1:] > sizes[:-1]):
            raise ValueError(
                "clusters are numbered from 0 without gaps, the largest first, but their sizes are "
                f"{sizes[:20].tolist()}; ClusterAssignment.from_labels numbers them"
            )

    @classmethod
    def from_labels(cls, labels: np.ndarray, max_clusters: int = 0) -> ClusterAssignment:
        """Number clusters by size.

        Args:
            labels: (N,) int, any numbers; those < 0 are noise.
            max_clusters: members of smaller clusters than the first so many become noise; 0 keeps
                all. Clusters of equal size are numbered in the order of their first members.
        """
        names, first, members, sizes = np.unique(
            labels, return_index=True, return_inverse=True, return_counts=True
        )
        order = np.lexsort((first, -sizes, names < 0))
        new = np.full(len(names), NOISE, np.int64)
        kept = order[: int((names >= 0).sum())]
        if max_clusters:
            kept = kept[:max_clusters]
        new[kept] = np.arange(len(kept))
        return cls(new[members])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sizes(self) -> np.ndarray:
        """(C,) int64 number of regions of each cluster."""
        return np.bincount(self.labels[self.labels >= 0])

    @property
    def num_clusters(self) -> int:
        """Noise is none."""
        return int(self.labels.max(initial=NOISE)) + 1

    @property
    def num_noise(self) -> int:
        """Regions in no cluster."""
        return int((self.labels == NOISE).sum())

    def members(self, cluster: int) -> np.ndarray:
        """(M,) int64 positions of a cluster's regions, ascending.

        Raises:
            IndexError: there is no such cluster.
        """
        if not 0 <= cluster < self.num_clusters:
            raise IndexError(f"cluster {cluster} is not one of 0 .. {self.num_clusters - 1}")
        return np.flatnonzero(self.labels == cluster)

    def save(self, path: str | Path) -> None:
        """Write one .npz (no pickle) with `labels`."""
        with open(path, "wb") as file:
            np.savez_compressed(file, labels=self.labels)

    @classmethod
    def load(cls, path: str | Path) -> ClusterAssignment:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming the file, where it is damaged or of another kind.
        """
        with open_arrays(path, "cluster assignment") as arrays:
            return cls(arrays.read("labels", "i", None))
