"""DBSCAN of many regions on a sparse graph, against scikit-learn's on all distances."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.cluster import DBSCAN

from ...ops.numpy_boxes import paired_iou
from ...selftrain.clustering import ClusteringSettings, cluster_regions
from ...structures.clusters import ClusterAssignment
from .comparison import compare
from .own_process import measure_in_own_process
from .settings import BenchmarkSettings

_SETTINGS = ClusteringSettings(mode="bonus", eps=0.25)


@dataclass(frozen=True)
class SyntheticRegions:
    """Noisy views of identities, eight an identity on average, five regions an image.

    Attributes:
        count: of regions.
        dimension: of an embedding.
        num_identities: that views are drawn of; a part of a gallery has fewer views of each.
    """

    count: int = 200_000
    dimension: int = 512
    num_identities: int = 25_000

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Embeddings (N, D) of unit length, image ids (N,) and boxes (N, 4)."""
        rng = np.random.default_rng(0)
        identities = rng.standard_normal((self.num_identities, self.dimension), np.float32)
        embeddings = identities[rng.integers(0, self.num_identities, self.count)]
        embeddings += 0.4 * rng.standard_normal(embeddings.shape, np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        corner = rng.uniform(0, 300, (self.count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(40, 150, corner.shape)], axis=1)
        return embeddings, np.arange(self.count) // 5, boxes.astype(np.float32)


def clustering(settings: BenchmarkSettings) -> dict[str, Any]:
    """A row; see `evaluation`."""
    whole = SyntheticRegions(1_000, 64, 125) if settings.is_small else SyntheticRegions()
    part = replace(whole, count=whole.count // 40, num_identities=whole.num_identities // 40)
    if settings.is_small:
        part = whole
    inputs = part.arrays()
    measured = compare(
        f"DBSCAN of {part.count} regions",
        lambda: _dense(*inputs),
        lambda: cluster_regions(*inputs, _SETTINGS),
        lambda one, other: float(np.abs(one.labels - other.labels).max()),
        settings,
    )
    run = measure_in_own_process(cluster, whole, threads=settings.threads)
    return {
        **measured.row,
        "clusters": measured.ours.num_clusters,
        "noise": measured.ours.num_noise,
        "whole_regions": whole.count,
        "whole_seconds": run.seconds,
        "whole_peak_mib": run.peak_mib,
        "whole_clusters": run.result.num_clusters,
        "all_distances_gib": whole.count**2 * 4 / 2**30,
    }


def cluster(regions: SyntheticRegions) -> ClusterAssignment:
    """The clusters of made-up regions."""
    return cluster_regions(*regions.arrays(), _SETTINGS)


def _dense(embeddings: np.ndarray, image_ids: np.ndarray, boxes: np.ndarray) -> ClusterAssignment:
    """All distances 1 - min(V + IoU, 1), and DBSCAN on them."""
    similarities = embeddings @ embeddings.T
    rows, columns = np.nonzero(image_ids[:, None] == image_ids[None])
    similarities[rows, columns] += paired_iou(boxes[rows], boxes[columns])
    distances = 1 - np.minimum(similarities, 1)
    model = DBSCAN(eps=_SETTINGS.eps, min_samples=_SETTINGS.min_samples, metric="precomputed")
    return ClusterAssignment.from_labels(model.fit(distances).labels_, _SETTINGS.max_clusters)
