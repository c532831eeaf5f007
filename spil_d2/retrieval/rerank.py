"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) of one query's shortlist.

The published method compares every picture with every other. Here the neighbourhoods are those
inside the shortlist, so that the cost of a query depends on the shortlist's length alone, and each
picture is stood for by the region that the query found in it.

Shape shorthand: N nodes, the query (node 0) and the N - 1 regions of its shortlist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..structures import RankList, RankLists
from .expansion import ranked_embeddings
from .index import RegionIndex


@dataclass(frozen=True)
class KReciprocal:
    """The settings of `k_reciprocal_similarities`, applied to an index's rank lists.

    Attributes:
        k1, k2, weight: see `k_reciprocal_similarities`.
        shortlist: images at the head of a list that are ranked again.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    shortlist: int = 128

    def apply(self, queries: np.ndarray, lists: RankLists, index: RegionIndex) -> RankLists:
        """The lists with their heads in the new order.

        The head's similarities are those of `k_reciprocal_similarities`; what follows keeps its
        order, its similarities lowered to where the head ends.

        Args:
            queries: (Q, D), L2-normalized, in the order of `lists`.
            lists: from `index.search` with these queries.
            index: whose regions they rank.
        """
        found = []
        for query, one in zip(queries, lists.lists):
            head = ranked_embeddings(one.top(self.shortlist), index).reshape(-1, len(query))
            similarities = self.rescore(query, head, one, index)
            order = np.argsort(-similarities, kind="stable")
            found.append(
                replace(
                    one,
                    image_ids=one.image_ids[order],
                    boxes=one.boxes[order],
                    similarities=similarities[order],
                )
            )
        return RankLists(tuple(found))

    def rescore(
        self, query: np.ndarray, embeddings: np.ndarray, ranked: RankList, index: RegionIndex
    ) -> np.ndarray:
        """(M,) float32 new similarities of the entries of a list, in the list's order.

        Args:
            query: (D,), L2-normalized.
            embeddings: (M, D) of what the entries show, or of the first `shortlist` of them.
            ranked: the list.
            index: that says how embeddings compare.
        """
        nodes = np.concatenate([query[None], embeddings[: self.shortlist]])
        head = k_reciprocal_similarities(
            index.compare(nodes, nodes), k1=self.k1, k2=self.k2, weight=self.weight
        )
        tail = ranked.similarities[len(head) :]
        if len(tail):
            lowered = tail - max(0.0, tail[0] - head.min())
            tail = np.minimum(lowered, head.min())  # Whatever the rounding.
        return np.concatenate([head, tail]).astype(np.float32)


def k_reciprocal_similarities(
    similarities: np.ndarray, *, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """Similarities of the shortlist with the query by the neighbours that they share.

    With d = 1 - cosine and N(p, k) the k nodes nearest to p beside p itself:
    R(p, k) = {g in N(p, k) : p in N(g, k)}, a node belonging to its own set;
    R*(p) = R(p, k1) with each R(q, k1 / 2), q in R(p, k1), of which 2/3 lie in R(p, k1);
    V_p = exp(-d(p, g)) for g in R*(p), 0 elsewhere, then the mean of V over p and its k2 - 1
    nearest; d_J = 1 - sum min(V_p, V_g) / sum max(V_p, V_g).

    Args:
        similarities: (N, N) cosines between all nodes, the query first.
        k1: size of the reciprocal neighbourhoods.
        k2: nodes that V is averaged over (1: none but the node itself).
        weight: lambda, the share of the original distance in (1 - lambda) d_J + lambda d.

    Returns:
        (N - 1,) float32: 1 less that distance, for each region of the shortlist in its order.

    Raises:
        ValueError: for a matrix that is not square, k1 < 1, k2 < 1 or a weight outside [0, 1].
    """
    count = len(similarities)
    if similarities.shape != (count, count) or count < 1:
        raise ValueError(f"similarities are {similarities.shape}, not (N, N) with N > 0")
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(
            f"k1 = {k1}, k2 = {k2}, weight = {weight}: use k >= 1 and 0 <= weight <= 1"
        )
    distances = 1.0 - similarities.astype(np.float64)
    # A node is the first in its own order, whatever the rounding.
    np.fill_diagonal(distances, -np.inf)
    order = np.argsort(distances, axis=1, kind="stable")
    np.fill_diagonal(distances, 0.0)
    encoding = np.exp(-distances) * _expanded_neighbours(order, k1)
    encoding = encoding[order[:, :k2]].mean(axis=1)
    smaller = np.minimum(encoding[0], encoding[1:]).sum(axis=1)
    larger = np.maximum(encoding[0], encoding[1:]).sum(axis=1)
    jaccard = 1.0 - smaller / larger
    return (1.0 - (1.0 - weight) * jaccard - weight * distances[0, 1:]).astype(np.float32)


def _expanded_neighbours(order: np.ndarray, k1: int) -> np.ndarray:
    """R* as an (N, N) bool matrix: row p marks the members of R*(p)."""
    near = _reciprocal_neighbours(order, k1)
    half = _reciprocal_neighbours(order, max(1, round(k1 / 2)))
    shared = near.astype(np.int32) @ half.T.astype(np.int32)
    is_added = near & (3 * shared >= 2 * half.sum(axis=1))
    return near | (is_added.astype(np.int32) @ half.astype(np.int32) > 0)


def _reciprocal_neighbours(order: np.ndarray, k: int) -> np.ndarray:
    """R(p, k) as an (N, N) bool matrix; `order` (N, N): all nodes by distance, itself first."""
    near = np.zeros(order.shape, bool)
    np.put_along_axis(near, order[:, : k + 1], True, axis=1)
    return near & near.T
