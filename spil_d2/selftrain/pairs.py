"""Drawing one training pair from the sample pool (SPIL, Algorithm 1, made explicit).

Every draw is a function of a random generator alone, so that a resumed run draws what the
undisturbed one would have drawn.

**Foreign queries.** Null ground truth (D8) must be true: the drawn image must not show what the
foreign query looks for. Where the classes of two queries are not known, queries whose rank lists
share images may look for the same thing, and are not foreign. In few-shot detection the classes are
known, and lists say nothing: with several shots a class and a small gallery the lists of all
classes overlap. There, queries of one class are never foreign to each other, and queries of two
classes always are, but for single pictures: one that is labelled for a query of the other class
(with a pseudo label, or as the picture of a shot) shows both, and is not drawn with that class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np

from ..structures import QUERY, Pair, Query, QueryPool, SamplePool
from ..structures.sample_pool import check_v_policy

Pictures = Set[int | str]
"""Ids of gallery images and file names."""


class PairSampler:
    """Draws pairs: a query, its crops X_p, the swap of query and candidate, a foreign query."""

    def __init__(
        self,
        pool: SamplePool,
        own_image_ids: Mapping[int, frozenset[int]],
        *,
        num_crops: int = 5,
        swap_probability: float | None = None,
        contrastive: bool = True,
        max_shared_images: float = 0.05,
        v_policy: str = "two_views",
        classified: Sequence[Query] = (),
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
            classified: the queries whose class is known (`category_id`); they follow the rule of
                classes instead of that of `max_shared_images`.
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
        self._categories = {
            one.id: one.category_id for one in classified if one.category_id is not None
        }
        self._pictures = {one.id: _own_pictures(one) for one in classified}
        self._labelled = _labelled_pictures(pool, self._categories, self._pictures)
        self._foreign = (
            _foreign_queries(pool, own_image_ids, max_shared_images, self._categories)
            if contrastive
            else {}
        )

    def draw(self, query_id: int, rng: np.random.Generator) -> Pair:
        """A pair for one query."""
        one = self._pool[query_id]
        support = self._support(one, rng)
        target = QUERY
        if self._pool.stage > 0:
            target, support = self._swap(one, support, rng)
        foreign = self._foreign_to(one, target)
        if len(foreign) == 0:
            return Pair(query_id, target, support)
        negative_id = int(foreign[rng.integers(len(foreign))])
        return Pair(
            query_id, target, support, negative_id, self._support(self._pool[negative_id], rng)
        )

    def _foreign_to(self, one: QueryPool, target: int) -> np.ndarray:
        """Ids of the foreign queries whose class Y is not labelled with."""
        foreign = self._foreign.get(one.query_id, np.zeros(0, int))
        if not self._categories:
            return foreign
        shown: Pictures = (
            self._pictures.get(one.query_id, set())
            if target == QUERY
            else {one.candidates[target].image_id}
        )
        labelled = [self._labelled.get(self._categories.get(b), set()) for b in foreign.tolist()]
        return foreign[np.array([not shown & pictures for pictures in labelled], bool)]

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


def _own_pictures(query: Query) -> Pictures:
    """Gallery images of a query and, since a shot is not in the gallery, its files."""
    return query.own_image_ids | {one.file_name for one in query.references}


def _labelled_pictures(
    pool: SamplePool, categories: Mapping[int, int], pictures: Mapping[int, Pictures]
) -> dict[int | None, Pictures]:
    """Of each known class the pictures that a query of it has a label on."""
    labelled: dict[int | None, Pictures] = {}
    for one in pool.queries:
        if one.query_id in categories:
            category = categories[one.query_id]
            mine = pictures[one.query_id] | {one.candidates[i].image_id for i in one.confident}
            labelled[category] = labelled.get(category, set()) | mine
    return labelled


def _foreign_queries(
    pool: SamplePool,
    own_image_ids: Mapping[int, frozenset[int]],
    max_shared: float,
    categories: Mapping[int, int],
) -> dict[int, np.ndarray]:
    """For each query, the ids of the queries that do not look for the same thing."""
    images = {
        one.query_id: {c.image_id for c in one.candidates} | own_image_ids[one.query_id]
        for one in pool.queries
        if one.candidates
    }

    def is_foreign(a: int, b: int) -> bool:
        if a in categories and b in categories:
            return categories[a] != categories[b]
        shared = len(images[a] & images[b]) / min(len(images[a]), len(images[b]))
        return a != b and shared <= max_shared

    return {a: np.array([b for b in images if is_foreign(a, b)], dtype=int) for a in images}
