"""Query expansion within self-paced training (SPIL, Section 4): pure functions on lists and pools.

Confident pseudo labels become queries of their own; what they find joins the rank list of the query
that they were found for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..structures import (
    Candidate,
    Query,
    QueryPool,
    RankList,
    RankLists,
    Reference,
    RegionList,
    RegionLists,
    SamplePool,
)
from .pseudo_labels import as_box

_MIN_SIDE = 1.0
"""Pixels: a box with a shorter side shows nothing to search with."""


def choose_instances(pool: SamplePool, num_instances: int) -> RegionLists:
    """The likeliest pseudo labels of each query.

    Args:
        pool: whose confident candidates are chosen from.
        num_instances: of a query, at most.

    Returns:
        Of each query the boxes, both scores being p; equal ones in the order of image id.
    """
    return RegionLists(tuple(_likeliest(one, num_instances) for one in pool.queries))


def _likeliest(one: QueryPool, num_instances: int) -> RegionList:
    labelled = [
        (candidate.image_id, candidate.target)
        for candidate in one.candidates
        if candidate.target is not None
    ]
    boxes = np.array([target.box for _, target in labelled], np.float32).reshape(-1, 4)
    p = np.array([target.weight for _, target in labelled], np.float32)
    ids = np.array([image_id for image_id, _ in labelled], np.int64)
    wide = (boxes[:, 2:] - boxes[:, :2] >= _MIN_SIDE).all(axis=1)
    ranked = RegionList.ranked(one.query_id, ids[wide], boxes[wide], p[wide], p[wide])
    return ranked.top(num_instances)


def instance_queries(
    instances: RegionLists, queries: Sequence[Query], gallery: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[Query, ...]]:
    """Instances as queries of the identity and the class of those they were found for.

    Args:
        instances: of `choose_instances`.
        queries: that they were found for.
        gallery: Detectron2 dicts with `image_id`, `file_name`, `width` and `height`.

    Returns:
        Query id -> queries of one reference each, best first; their ids follow the largest one of
        `queries`. Each has its gallery image for its own, which it is not to find again.
    """
    pictures = {int(one["image_id"]): one for one in gallery}
    next_id = max(one.id for one in queries) + 1
    found: dict[int, tuple[Query, ...]] = {}
    for query in queries:
        members = []
        regions = instances[query.id]
        for image_id, box in zip(regions.image_ids.tolist(), regions.boxes.tolist()):
            picture = pictures[image_id]
            size = int(picture["width"]), int(picture["height"])
            reference = Reference(str(picture["file_name"]), *size, as_box(box), image_id)
            members.append(
                Query(next_id, (reference,), query.instance_id, category_id=query.category_id)
            )
            next_id += 1
        found[query.id] = tuple(members)
    return found


def unite_lists(lists: Sequence[RankList], excluded: Collection[int], top_k: int) -> RankList:
    """One list of all images, in the order of their best ranks.

    Where two images have the same rank, that of the earlier list comes first. The box (Z) of an
    image is that of the list where its rank is best. So is its similarity, but lowered to those
    before it where it would break the order: similarities to different queries do not compare.

    Args:
        lists: the query's own, whose id the result has, then those of its instances.
        excluded: images that are not to be in the result, those the query was taken from.
        top_k: length of the result, at most.
    """
    ranks = np.concatenate([np.arange(len(one)) for one in lists])
    owners = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    image_ids = np.concatenate([one.image_ids for one in lists])
    order = np.lexsort((owners, ranks))
    order = order[~np.isin(image_ids[order], list(excluded))]
    _, first = np.unique(image_ids[order], return_index=True)
    chosen = order[np.sort(first)][:top_k]
    similarities = np.concatenate([one.similarities for one in lists])[chosen]
    return RankList(
        lists[0].query_id,
        image_ids[chosen],
        np.concatenate([one.boxes for one in lists])[chosen],
        np.minimum.accumulate(similarities),
    )


def extend_pool(pool: SamplePool, lists: RankLists) -> SamplePool:
    """The pool whose candidates are those of longer lists, in their order.

    What was a candidate stays labelled as it is; new ones have no label.

    Args:
        pool: V of a stage.
        lists: of each of its queries.
    """
    extended = []
    for one in pool.queries:
        labelled = {c.image_id: c for c in one.candidates if c.target is not None}
        ranked = lists[one.query_id]
        rows = zip(ranked.image_ids.tolist(), ranked.boxes.tolist())
        candidates = tuple(labelled.get(i) or Candidate(i, as_box(box)) for i, box in rows)
        extended.append(replace(one, candidates=candidates))
    return replace(pool, queries=tuple(extended))


def without_images(lists: RankLists, others: RankLists) -> RankLists:
    """The entries of lists whose images are not in the other list of the same query."""
    return RankLists(
        tuple(
            one.take(np.nonzero(~np.isin(one.image_ids, others[one.query_id].image_ids))[0])
            for one in lists.lists
        )
    )


def join_localized(lists: RankLists, parts: Sequence[RankLists]) -> RankLists:
    """Lists with the localizer's boxes and probabilities, which lie in several sets of lists.

    Args:
        lists: the images and their order.
        parts: localized lists of the same queries; each image of `lists` is in one of them.
    """
    joined = []
    for one in lists.lists:
        found: dict[int, tuple[np.ndarray, float]] = {}
        for part in (lists_of[one.query_id] for lists_of in parts):
            assert part.probabilities is not None, "a localized list carries probabilities"
            values = zip(part.boxes, part.probabilities.tolist())
            found.update(zip(part.image_ids.tolist(), values))
        rows = [found[image_id] for image_id in one.image_ids.tolist()]
        boxes = np.array([box for box, _ in rows], np.float32).reshape(-1, 4)
        p = np.array([p for _, p in rows], np.float32)
        joined.append(replace(one, boxes=boxes, probabilities=p))
    return RankLists(tuple(joined))
