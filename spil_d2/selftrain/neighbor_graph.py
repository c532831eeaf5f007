"""The nearest neighbours of many embeddings, without a matrix of all pairs.

Shape shorthand: N embeddings, D dimensions, k neighbours.
"""

from __future__ import annotations

import logging
from types import ModuleType

import numpy as np

logger = logging.getLogger(__name__)

# Similarities that are held at once.
_BLOCK_ENTRIES = 1 << 22


def nearest_neighbors(
    embeddings: np.ndarray, k: int, exact_limit: int = 50_000
) -> tuple[np.ndarray, np.ndarray]:
    """The k embeddings with the highest cosine to each one, itself left out.

    Args:
        embeddings: (N, D) float32, L2-normalized.
        k: neighbours, at least 1; N - 1 where that is less.
        exact_limit: above so many embeddings the search is FAISS's approximate one where FAISS is
            installed, and exact but slow where it is not.

    Returns:
        Indices (N, k) int64 and similarities (N, k) float32, the nearest first.
    """
    count = len(embeddings)
    if k < 1:
        raise ValueError(f"a point has at least 1 neighbour, got k = {k}")
    k = min(k, count - 1)
    if k <= 0:
        return np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32)
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    if count > exact_limit:
        faiss = _faiss()
        if faiss is not None:
            return _approximate(embeddings, k, faiss)
        logger.warning("FAISS is not installed: comparing all pairs of %d embeddings", count)
    return _exact(embeddings, k)


def _exact(embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    count = len(embeddings)
    indices = np.empty((count, k), np.int64)
    similarities = np.empty((count, k), np.float32)
    rows = max(1, _BLOCK_ENTRIES // count)
    for start in range(0, count, rows):
        block = embeddings[start : start + rows] @ embeddings.T
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        best = np.argpartition(block, count - k, axis=1)[:, count - k :]
        values = np.take_along_axis(block, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        indices[start : start + rows] = np.take_along_axis(best, order, axis=1)
        similarities[start : start + rows] = np.take_along_axis(values, order, axis=1)
    return indices, similarities


def _approximate(
    embeddings: np.ndarray, k: int, faiss: ModuleType
) -> tuple[np.ndarray, np.ndarray]:
    count, dimension = embeddings.shape
    num_lists = int(4 * count**0.5)
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFFlat(quantizer, dimension, num_lists, faiss.METRIC_INNER_PRODUCT)
    # The defaults train four times as long, and no more neighbours are found.
    index.cp.niter, index.cp.max_points_per_centroid = 10, 64
    index.train(embeddings)
    index.add(embeddings)
    index.nprobe = max(16, num_lists // 32)
    similarities, indices = index.search(embeddings, k + 1)
    # Among exact copies a point may not find itself: then its farthest neighbour goes.
    drop = indices == np.arange(count)[:, None]
    drop[~drop.any(axis=1), -1] = True
    shape = count, k
    return indices[~drop].reshape(shape), similarities[~drop].reshape(shape)


def _faiss() -> ModuleType | None:
    try:
        import faiss
    except ImportError:
        return None
    return faiss
