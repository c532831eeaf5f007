"""Drawing one training pair from the sample pool (SPIL, Algorithm 1, made explicit).

Every draw is a function of a random generator alone, so that a resumed run draws what the
undisturbed one would have drawn.
"""

from __future__ import annotations

import numpy as np

from ..structures import QUERY, Pair, QueryPool, SamplePool
from ..structures.sample_pool import check_v_policy


class PairSampler:
    """Draws pairs: a query, its crops X_p, the swap of query and candidate, a foreign query."""

    def __init__(
        self,
        pool: SamplePool,
        own_image_ids: dict[int, frozenset[int]],
        *,
        num_crops: int = 5,
        swap_probability: float | None = None,
        contrastive: bool = True,
        max_shared_images: float = 0.05,
        v_policy: str = "two_views",
    ):
        """
        Args:
            pool: V of the stage.
            own_image_ids: of each query, the gallery images it was taken from.
            num_crops: n of Eq. 3.
            swap_probability: None draws Y uniformly among the query and its confident crops (D11);
                a number swaps that often (1 = the paper's literal "always").
            contrastive: pair each item with a foreign query (D8).
            max_shared_images: a query is foreign if its list shares at most this part of its
                images with the other's; else "null ground truth" would be a lie.
            v_policy: "two_views" fills up too few confident crops with the engine's;
                "confident_only" does not, where there is one confident crop at least (D12).
        """
        check_v_policy(v_policy)
        self._pool = pool
        self._v_policy = v_policy
        self.query_ids = tuple(one.query_id for one in pool.queries if one.candidates)
        self._num_crops = num_crops
        self._swap_probability = swap_probability
        if not self.query_ids:
            raise ValueError(
                f"the sample pool of stage {pool.stage} is empty: no query has a ranked image"
            )
        self._foreign = (
            _foreign_queries(pool, own_image_ids, max_shared_images) if contrastive else {}
        )

    def draw(self, query_id: int, rng: np.random.Generator) -> Pair:
        """A pair for one query."""
        one = self._pool[query_id]
        support = self._support(one, rng)
        target = QUERY
        if self._pool.stage > 0:
            target, support = self._swap(one, support, rng)
        foreign = self._foreign.get(query_id, ())
        if len(foreign) == 0:
            return Pair(query_id, target, support)
        negative_id = int(foreign[rng.integers(len(foreign))])
        return Pair(
            query_id, target, support, negative_id, self._support(self._pool[negative_id], rng)
        )

    def _support(self, one: QueryPool, rng: np.random.Generator) -> tuple[int, ...]:
        """At most n distinct positions of the support view: confident ones first."""
        confident = rng.permutation(np.asarray(one.confident, dtype=int))
        view = one.support_view(self._v_policy)
        rest = [i for i in view if one.candidates[i].target is None]
        if self._pool.stage == 0:
            rest = list(rng.permutation(rest))
        order = [*confident, *rest][: self._num_crops]
        return tuple(int(i) for i in order)

    def _swap(
        self, one: QueryPool, support: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[int, tuple[int, ...]]:
        """Exchange the query's image with a confident crop (D11): its crop takes the free slot."""
        confident = [i for i in support if one.candidates[i].target is not None]
        choices = [QUERY, *confident]
        if self._swap_probability is not None and confident:
            swap = rng.random() < self._swap_probability
            choices = confident if swap else [QUERY]
        target = int(choices[rng.integers(len(choices))])
        return target, tuple(QUERY if i == target else i for i in support)


def _foreign_queries(
    pool: SamplePool, own_image_ids: dict[int, frozenset[int]], max_shared: float
) -> dict[int, np.ndarray]:
    """For each query, the ids of the queries that do not look for the same thing."""
    images = {
        one.query_id: {c.image_id for c in one.candidates} | own_image_ids[one.query_id]
        for one in pool.queries
        if one.candidates
    }
    foreign = {}
    for a in images:
        shared = {
            b: len(images[a] & images[b]) / max(1, min(len(images[a]), len(images[b])))
            for b in images
        }
        foreign[a] = np.array([b for b in images if b != a and shared[b] <= max_shared], dtype=int)
    return foreign
