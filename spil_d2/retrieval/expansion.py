"""Query expansion: a query's embedding averaged with those of its nearest regions.

Shape shorthand: Q queries, M ranked regions, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ops.similarity import unit_rows
from ..structures import RankList, RankLists
from .index import RegionIndex


@dataclass(frozen=True)
class QueryExpansion:
    """The settings of `expand_queries`, applied to an index's rank lists."""

    num_regions: int
    alpha: float = 0.0

    def apply(self, queries: np.ndarray, lists: RankLists, index: RegionIndex) -> np.ndarray:
        """Queries (Q, D) -> expanded queries (Q, D).

        Args:
            queries: L2-normalized, in the order of `lists`.
            lists: from `index.search` with these queries.
            index: whose regions they rank.
        """
        shape = (len(queries), self.num_regions, queries.shape[1])
        neighbours, similarities = np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32)
        for row, one in enumerate(lists.lists):
            head = one.top(self.num_regions)
            neighbours[row, : len(head)] = ranked_embeddings(head, index)
            similarities[row, : len(head)] = head.similarities
        return expand_queries(
            queries, neighbours, similarities, num_regions=self.num_regions, alpha=self.alpha
        )


def ranked_embeddings(ranked: RankList, index: RegionIndex) -> np.ndarray:
    """(M, D) float32 embeddings of the regions that a list from `index.search` ranks."""
    rows = []
    for image_id, box in zip(ranked.image_ids.tolist(), ranked.boxes):
        regions = index.regions_of(image_id)
        rows.append(regions.embeddings[np.abs(regions.boxes - box).max(axis=1).argmin()])
    return np.array(rows, np.float32)


def expand_queries(
    queries: np.ndarray,
    neighbours: np.ndarray,
    similarities: np.ndarray,
    *,
    num_regions: int,
    alpha: float = 0.0,
) -> np.ndarray:
    """Average query expansion (alpha 0), or alpha-QE, over the first regions of the rank lists.

    A region of similarity s counts max(s, 0) ** alpha times, the query itself once: with alpha 0
    all of them count the same (average QE), a large alpha trusts only the nearest (alpha-QE).

    Args:
        queries: (Q, D), L2-normalized.
        neighbours: (Q, M, D) embeddings of the ranked regions, best first, L2-normalized; rows
            beyond the end of a short list are 0.
        similarities: (Q, M) cosines that the order comes from; 0 beyond the end of a short list.
        num_regions: n, of which the first are taken; fewer where M is smaller.
        alpha: exponent of the weights, >= 0.

    Returns:
        (Q, D) float32, L2-normalized.

    Raises:
        ValueError: for shapes that do not belong together, n < 1 or alpha < 0.
    """
    if num_regions < 1 or alpha < 0:
        raise ValueError(
            f"query expansion over {num_regions} regions with alpha {alpha}: it takes at least 1 "
            "region and alpha >= 0"
        )
    count, size = queries.shape
    if neighbours.shape != (count, similarities.shape[1], size) or len(similarities) != count:
        raise ValueError(
            f"queries {queries.shape}, neighbours {neighbours.shape} and similarities "
            f"{similarities.shape} do not fit (Q, D), (Q, M, D), (Q, M)"
        )
    kept = neighbours[:, :num_regions]
    # Where a list has ended the embedding is 0, so that its weight is of no matter.
    weights = np.maximum(similarities[:, :num_regions], 0.0) ** alpha
    sums = queries + np.einsum("qm,qmd->qd", weights, kept)
    return unit_rows(sums).astype(np.float32)
