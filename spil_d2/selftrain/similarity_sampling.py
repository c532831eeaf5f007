"""What the localizer trains on: similarity-guided sampling of the seeds' rank lists (CST, Eq. 8).

A seed is the query of a training pair; one of the regions that were found for it is drawn as the
pair's target, the likelier the more it looks like the seed to the ranker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..ops.numpy_boxes import BoxFilter
from ..structures import (
    QUERY,
    Candidate,
    Pair,
    Query,
    QueryPool,
    RegionList,
    RegionLists,
    SamplePool,
    Target,
)

STRATEGIES = ("sgs", "topk", "threshold")
"""How a target is drawn: "sgs": of the first K with probability ~ ((s + 1) / 2) ** power; "topk":
of the first K with equal probability (the ablation, and what the released code does); "threshold":
of those with s >= threshold with equal probability."""


def agreeing_seeds(lists: RegionLists, fraction: float, top_k: int) -> RegionLists:
    """The lists of the seeds whose first regions look most like them.

    Args:
        lists: of all seeds, by the ranker's similarity.
        fraction: of the seeds that is kept, rounded up, in (0, 1].
        top_k: regions whose mean similarity decides; a shorter list counts by what it has, and an
            empty one comes last. Equal seeds are in the order of their lists.

    Returns:
        The kept lists, in their order.

    Raises:
        ValueError: for another fraction, or top_k < 1.
    """
    if not 0 < fraction <= 1 or top_k < 1:
        raise ValueError(
            f"CST.SAMPLING.SEED_FRACTION is {fraction} and SEED_TOP_K {top_k}: use a part in "
            "(0, 1] and at least 1 region"
        )
    means = [
        float(one.similarities[:top_k].mean()) if len(one) else -math.inf for one in lists.lists
    ]
    order = np.argsort(-np.array(means), kind="stable")[: math.ceil(fraction * len(means))]
    return RegionLists(tuple(lists.lists[i] for i in sorted(order.tolist())))


def pool_of_regions(
    seeds: Sequence[Query],
    lists: RegionLists,
    *,
    round_index: int,
    top_k: int,
    keep_own_image: bool = False,
    one_box_per_image: bool = True,
    box_filter: BoxFilter | None = None,
    gallery: Mapping[int, dict] | None = None,
) -> tuple[SamplePool, dict[int, np.ndarray]]:
    """The pool of a round: a seed's regions are its candidates, all of them targets of weight 1.

    Args:
        seeds: the queries; each has a list.
        lists: regions found for the seeds, by the ranker's similarity.
        round_index: becomes the pool's `stage`.
        top_k: candidates of a seed, after what the other arguments leave out; -1 keeps all.
        keep_own_image: regions on the image that the seed was taken from stay. They must where
            seeds are searched in their own image only.
        one_box_per_image: only the best region of an image stays.
        box_filter: which regions may be targets; needs `gallery`.
        gallery: image id -> Detectron2 dataset dict, for the sizes of images.

    Returns:
        The pool, and seed id -> similarities (K,) of its candidates, non-increasing. A seed of
        which nothing is left has no candidates.
    """
    if box_filter is not None and gallery is None:
        raise ValueError("a filter of boxes needs the gallery, for the sizes of its images")
    pools, similarities = [], {}
    for seed in seeds:
        regions = lists[seed.id]
        kept = np.ones(len(regions), bool)
        if not keep_own_image:
            kept &= ~np.isin(regions.image_ids, list(seed.own_image_ids))
        if box_filter is not None and gallery is not None:
            kept &= _passes(regions, box_filter, gallery)
        index = np.flatnonzero(kept)
        if one_box_per_image:
            # The lists are sorted, so the first region of an image is its best.
            index = index[np.sort(np.unique(regions.image_ids[index], return_index=True)[1])]
        regions = regions.take(index if top_k < 0 else index[:top_k])
        reference = Target(seed.primary.box, 1.0)
        pools.append(QueryPool(seed.id, reference, tuple(_candidates(regions))))
        similarities[seed.id] = regions.similarities
    return SamplePool(round_index, tuple(pools)), similarities


def _passes(regions: RegionList, box_filter: BoxFilter, gallery: Mapping[int, dict]) -> np.ndarray:
    passes = np.zeros(len(regions), bool)
    for i, image_id in enumerate(regions.image_ids.tolist()):
        size = gallery[image_id]["width"], gallery[image_id]["height"]
        passes[i] = box_filter.keeps(regions.boxes[i : i + 1], *size)[0]
    return passes


def _candidates(regions: RegionList) -> list[Candidate]:
    candidates = []
    for image_id, (x0, y0, x1, y1) in zip(regions.image_ids.tolist(), regions.boxes.tolist()):
        box = (x0, y0, x1, y1)
        candidates.append(Candidate(image_id, box, Target(box, 1.0)))
    return candidates


def sgs_probabilities(similarities: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Eq. 8, s_i / sum s, with (s + 1) / 2 in place of s: cosines may be negative.

    The worked numbers of spec 5.3: .8, .2, -.4 -> 1/2, 1/3, 1/6.

    Args:
        similarities: (K,) cosines, K >= 1.
        power: of the weights; 1 is the paper, more prefers the first ones more.

    Returns:
        (K,) float64, summing to 1; equal ones where all cosines are -1.
    """
    weights = ((np.clip(np.asarray(similarities, np.float64), -1, 1) + 1) / 2) ** power
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1 / len(weights))


class SeedPairSampler:
    """Draws training pairs of seeds: the query is the seed, Y the image of a drawn candidate.

    A draw is a function of the generator alone, so that a resumed run draws what the undisturbed
    one would have drawn.
    """

    def __init__(
        self,
        pool: SamplePool,
        similarities: Mapping[int, np.ndarray],
        *,
        strategy: str = "sgs",
        top_k: int = -1,
        threshold: float = 0.0,
        power: float = 1.0,
    ):
        """
        Args:
            pool: of `pool_of_regions`.
            similarities: seed id -> (K,) of its candidates, in their order.
            strategy: one of `STRATEGIES`.
            top_k: K of "sgs" and "topk"; -1 draws from all candidates.
            threshold: least similarity in "threshold".
            power: see `sgs_probabilities`.

        Raises:
            ValueError: unknown strategy, similarities that do not fit the pool, or no seed has
                anything to draw.
        """
        if strategy not in STRATEGIES:
            raise ValueError(f"CST.SAMPLING.STRATEGY is {strategy!r}: use one of {STRATEGIES}")
        if top_k == 0 or top_k < -1:
            raise ValueError(f"CST.SAMPLING.TOP_K is at least 1, or -1 for all, got {top_k}")
        self._probabilities: dict[int, np.ndarray] = {}
        for one in pool.queries:
            values = np.asarray(similarities[one.query_id], np.float64)
            if values.shape != (len(one.candidates),):
                raise ValueError(
                    f"seed {one.query_id} has {len(one.candidates)} candidates, but similarities "
                    f"of shape {values.shape}"
                )
            if strategy == "threshold":
                values = values[values >= threshold]
            elif top_k > 0:
                values = values[:top_k]
            if len(values) == 0:
                continue
            equal = np.full(len(values), 1 / len(values))
            chances = sgs_probabilities(values, power) if strategy == "sgs" else equal
            self._probabilities[one.query_id] = chances
        if not self._probabilities:
            raise ValueError(
                f"no seed of round {pool.stage} has a region to train on: the lists are empty, "
                "hold only the seeds' own images (CST.RANK_LISTS.KEEP_OWN_IMAGE), or nothing "
                f"passes CST.SAMPLING.THRESHOLD {threshold}"
            )
        self.query_ids = tuple(self._probabilities)

    def draw(self, query_id: int, rng: np.random.Generator) -> Pair:
        """A pair of one of `query_ids`: the target is a candidate, the support the seed itself."""
        chances = self._probabilities[query_id]
        return Pair(query_id, int(rng.choice(len(chances), p=chances)), (QUERY,))
