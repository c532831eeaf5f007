"""Pseudo identities by DBSCAN on what regions look like and where they are (CST, spec 5.4).

The paper's similarity of two regions is S = V + IoU: V is the cosine of their embeddings, IoU their
overlap if they lie on one image, else 0. `MODES` are the distances that can be made of it.
Shape shorthand: N regions, D dimensions, P pairs, k neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.cluster import DBSCAN

from ..ops.numpy_boxes import paired_iou
from ..structures.clusters import ClusterAssignment
from .neighbor_graph import nearest_neighbors

logger = logging.getLogger(__name__)

# Sparse graphs drop a distance of 0.
_LEAST_DISTANCE = 1e-9

Distance = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]
_DISTANCES: dict[str, Distance] = {
    "bonus": lambda v, iou, same, weight: 1 - np.minimum(v + weight * iou, 1),
    "sum": lambda v, iou, same, weight: 2 - (v + iou),
    "penalty": lambda v, iou, same, weight: 1 - v + weight * (1 - iou) * same,
    "cosine": lambda v, iou, same, weight: 1 - v,
}
# Modes in which overlap alone can link two regions, however little they look alike.
_OVERLAP_LINKS = ("bonus", "sum")

MODES = tuple(_DISTANCES)
"""Distances d of two regions, linked where d <= eps; eps = 0.2 says:

- "bonus", d = 1 - min(V + w IoU, 1): across images V >= 0.8, on one image V + w IoU >= 0.8. With
  w = 1 this is the paper's S, and eps is on the scale of the cosine.
- "sum", d = 2 - (V + IoU), the paper's S as the official code writes it, w unused. THE TRAP: d >= 1
  for every pair across images, so that an eps below 1 forbids clusters across images; eps = 1.2
  links the same pairs as "bonus" with w = 1 and eps = 0.2.
- "penalty", d = (1 - V) + w (1 - IoU) [on one image]: across images V >= 0.8; on one image apart
  regions are pushed apart, so that two like objects of one picture stay two instances.
- "cosine", d = 1 - V: where regions lie does not count (the released configurations).
"""


@dataclass(frozen=True)
class ClusteringSettings:
    """How regions are clustered.

    Attributes:
        mode: one of `MODES`.
        eps: largest distance of two linked regions, on the scale of the mode.
        eps_percentile: in (0, 100): eps is chosen without labels instead, as this percentile of
            the regions' cosine distances to their nearest region of another image (the
            (min_samples - 1)-th nearest where that is more than the first), plus 1 in mode "sum";
            0 takes `eps`.
        min_samples: regions within eps, itself counted, that make a region the core of a cluster.
        iou_weight: w of the modes.
        num_neighbors: k of the graph. Regions that look alike are linked if one is among the k
            nearest of the other; overlapping regions of one image always are in the graph.
        max_clusters: the largest ones are kept, the members of others are noise; 0 keeps all.
        exact_limit: see `nearest_neighbors`.
    """

    mode: str = "bonus"
    eps: float = 0.25
    eps_percentile: float = 0.0
    min_samples: int = 2
    iou_weight: float = 1.0
    num_neighbors: int = 30
    max_clusters: int = 10_000
    exact_limit: int = 50_000

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"CST.CLUSTERING.MODE is {self.mode!r}: use one of {MODES}")
        if self.eps <= 0 or not 0 <= self.eps_percentile < 100 or self.iou_weight < 0:
            raise ValueError(
                "CST.CLUSTERING needs EPS > 0, EPS_PERCENTILE in [0, 100) and IOU_WEIGHT >= 0, got "
                f"{self.eps}, {self.eps_percentile} and {self.iou_weight}"
            )
        if self.min_samples < 1 or self.num_neighbors < max(1, self.min_samples - 1):
            raise ValueError(
                "CST.CLUSTERING needs MIN_SAMPLES >= 1 and NUM_NEIGHBORS >= MIN_SAMPLES - 1, got "
                f"{self.min_samples} and {self.num_neighbors}"
            )


def cluster_regions(
    embeddings: np.ndarray,
    image_ids: np.ndarray,
    boxes: np.ndarray,
    settings: ClusteringSettings,
) -> ClusterAssignment:
    """DBSCAN on a sparse graph of neighbours.

    It equals DBSCAN on all pairs as long as no region has more than k others within eps.

    Args:
        embeddings: (N, D) float32, L2-normalized.
        image_ids: (N,) int, the image of each region.
        boxes: (N, 4) XYXY_ABS in pixels of that image.
        settings: mode, eps and so on.

    Returns:
        The clusters, the largest first.
    """
    count = len(embeddings)
    if image_ids.shape != (count,) or boxes.shape != (count, 4):
        raise ValueError(
            f"{count} embeddings, but image_ids {image_ids.shape} and boxes {boxes.shape}"
        )
    if count < 2:
        # DBSCAN on one point: a cluster only if that point alone is enough.
        alone = 0 if settings.min_samples == 1 else -1
        return ClusterAssignment(np.full(count, alone, np.int64))
    neighbors = nearest_neighbors(embeddings, settings.num_neighbors, settings.exact_limit)
    eps = settings.eps
    if settings.eps_percentile:
        eps = choose_eps(*neighbors, image_ids, settings)
    _warn_of_the_trap(settings.mode, eps)
    graph = _link(embeddings, image_ids, boxes, neighbors, eps, settings)
    model = DBSCAN(eps=eps, min_samples=settings.min_samples, metric="precomputed")
    clusters = ClusterAssignment.from_labels(model.fit(graph).labels_, settings.max_clusters)
    logger.info(
        "clustering %d regions (%s, eps %.3f): %d links, %d clusters, the largest of %d, %d noise",
        count,
        settings.mode,
        eps,
        (graph.nnz - count) // 2,
        clusters.num_clusters,
        clusters.sizes.max(initial=0),
        clusters.num_noise,
    )
    return clusters


def choose_eps(
    indices: np.ndarray,
    similarities: np.ndarray,
    image_ids: np.ndarray,
    settings: ClusteringSettings,
) -> float:
    """The percentile of the distances to a neighbour on another image; see `ClusteringSettings`.

    Args:
        indices, similarities: (N, k) of `nearest_neighbors`.
        image_ids: (N,).
        settings: `eps_percentile`, `min_samples` and `mode`.

    Raises:
        ValueError: no region has so many neighbours on other images.
    """
    place = max(1, settings.min_samples - 1)
    is_foreign = image_ids[indices] != image_ids[:, None]
    is_chosen = is_foreign & (is_foreign.cumsum(axis=1) == place)
    distances = np.maximum(1 - similarities[is_chosen].astype(np.float64), _LEAST_DISTANCE)
    if len(distances) == 0:
        raise ValueError(
            f"no region has {place} of its {indices.shape[1]} nearest neighbours on other images: "
            "set CST.CLUSTERING.EPS instead of EPS_PERCENTILE, or more NUM_NEIGHBORS"
        )
    eps = float(np.percentile(distances, settings.eps_percentile))
    if settings.mode == "sum":
        eps += 1
    logger.info(
        "eps %.4f (mode %s): percentile %g of the distances to neighbour %d on another image; "
        "quartiles of 1 - cosine %s; %d of %d regions have such a neighbour",
        eps,
        settings.mode,
        settings.eps_percentile,
        place,
        np.percentile(distances, (25, 50, 75)).round(3).tolist(),
        len(distances),
        len(indices),
    )
    return eps


def _warn_of_the_trap(mode: str, eps: float) -> None:
    if mode == "sum" and eps <= 1:
        logger.warning(
            "CST.CLUSTERING.MODE 'sum' has distances of at least 1 across images: with eps %.3f "
            "only boxes of one image can share a cluster",
            eps,
        )


def _link(
    embeddings: np.ndarray,
    image_ids: np.ndarray,
    boxes: np.ndarray,
    neighbors: tuple[np.ndarray, np.ndarray],
    eps: float,
    settings: ClusteringSettings,
) -> csr_matrix:
    """(N, N) symmetric distances <= eps, with an explicit diagonal of 0."""

    def close(i: np.ndarray, j: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
        """Those of the pairs i < j with cosines v that are linked, and their distances."""
        same = image_ids[i] == image_ids[j]
        iou = np.zeros(len(i))
        iou[same] = paired_iou(boxes[i[same]], boxes[j[same]])
        d = _DISTANCES[settings.mode](v.astype(np.float64), iou, same, settings.iou_weight)
        kept = d <= eps
        return i[kept], j[kept], np.maximum(d[kept], _LEAST_DISTANCE)

    count, k = neighbors[0].shape
    rows = np.repeat(np.arange(count), k)
    columns = neighbors[0].ravel()
    # FAISS fills up with -1 where its cells hold too few.
    found = columns >= 0
    rows, columns, v = rows[found], columns[found], neighbors[1].ravel()[found]
    parts = [close(np.minimum(rows, columns), np.maximum(rows, columns), v)]
    if settings.mode in _OVERLAP_LINKS:
        for i, j in _overlapping_pairs(image_ids, boxes):
            parts.append(close(i, j, np.einsum("pd,pd->p", embeddings[i], embeddings[j])))
    i, j, d = (np.concatenate(column) for column in zip(*parts))
    _, first = np.unique(i * count + j, return_index=True)
    i, j, d = i[first], j[first], d[first]
    own = np.arange(count)
    values = np.concatenate([d, d, np.zeros(count)])
    places = np.concatenate([i, j, own]), np.concatenate([j, i, own])
    graph = coo_matrix((values, places), shape=(count, count)).tocsr()
    graph.sort_indices()
    return graph


# Pairs of one image that are compared at once.
_MAX_PAIRS = 1 << 15


def _overlapping_pairs(
    image_ids: np.ndarray, boxes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs i < j of regions that overlap on one image, each (P,) int64."""
    order = np.argsort(image_ids, kind="stable")
    cuts = np.flatnonzero(np.diff(image_ids[order])) + 1
    for members in np.split(order, cuts):
        rows = max(1, _MAX_PAIRS // len(members))
        for start in range(0, len(members) - 1, rows):
            block = members[start : start + rows]
            later = np.arange(len(members))[None] > np.arange(start, start + len(block))[:, None]
            row, column = np.nonzero(later)
            # A stable sort keeps the positions of one image ascending, so i < j.
            i, j = block[row], members[column]
            kept = paired_iou(boxes[i], boxes[j]) > 0
            if kept.any():
                yield i[kept], j[kept]
