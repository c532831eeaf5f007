"""Searching images for queries by localizer and ranker: boxes by the one, their order by the other.

What CST's system is at test time, and what ranks regions for its seeds in a round of the cycle.
Shape shorthand: N boxes, D numbers of an embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.utils import comm
from torchvision.ops import box_iou, nms

from ..data.region_crops import Region
from ..evaluation.ins_evaluator import select_regions
from ..structures import (
    QUERY,
    Query,
    QueryPool,
    RegionList,
    RegionLists,
    SamplePool,
    Target,
)
from .localizer import Localizer
from .ranker_inference import RegionEmbedder

logger = logging.getLogger(__name__)

# Boxes whose embeddings are laid beside those of their queries at once.
_COMPARED = 1 << 14


@dataclass
class Found:
    """Boxes of queries in images, as they come from the localizer.

    Attributes:
        query_ids, image_ids: (N,) int64.
        boxes: (N, 4) float32, XYXY_ABS in pixels of the stored image.
        scores: (N,) float32, the localizer's probability.
    """

    query_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    image_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    @classmethod
    def join(cls, parts: Sequence[Found]) -> Found:
        """All parts as one."""
        if not parts:
            return cls()
        return cls(
            np.concatenate([one.query_ids for one in parts]),
            np.concatenate([one.image_ids for one in parts]),
            np.concatenate([one.boxes for one in parts]),
            np.concatenate([one.scores for one in parts]),
        )

    def __len__(self) -> int:
        return len(self.query_ids)


def find_boxes(
    localizer: Localizer,
    queries: Sequence[Query],
    wanted: Mapping[int, Sequence[int]],
    label: str = "localizing",
) -> Found | None:
    """Every box that the localizer finds for queries, each shown by its own picture alone.

    Args:
        localizer: over gallery and queries.
        queries: those of `wanted`.
        wanted: image id -> ids of the queries that are looked for in it.
        label: for the progress bar.

    Returns:
        On the main process the boxes, by image id and then in the order of `wanted`; elsewhere
        None.
    """
    own = tuple(QueryPool(one.id, Target(one.primary.box, 1.0), ()) for one in queries)
    vectors = localizer.encode_pool(SamplePool(0, own), 0)
    parts: dict[int, Found] = {}
    for image_id, answers in localizer.detect(wanted, lambda q, _: vectors[q, QUERY], label):
        counts = [len(one) for _, one in answers]
        parts[image_id] = Found(
            np.repeat(np.array([query_id for query_id, _ in answers], np.int64), counts),
            np.full(sum(counts), image_id, np.int64),
            torch.cat([one.pred_boxes.tensor for _, one in answers]).cpu().numpy(),
            torch.cat([one.scores for _, one in answers]).cpu().numpy(),
        )
    gathered = comm.gather(parts)
    if not comm.is_main_process():
        return None
    merged = {image_id: one for part in gathered for image_id, one in part.items()}
    return Found.join([merged[image_id] for image_id in sorted(merged)])


def localize_queries(
    localizer: Localizer,
    queries: Sequence[Query],
    wanted: Mapping[int, Sequence[int]],
    label: str = "localizing",
) -> RegionLists | None:
    """`find_boxes` as lists in the order of the localizer's own probabilities."""
    found = find_boxes(localizer, queries, wanted, label)
    return None if found is None else lists_by_score(found, queries)


def best_boxes(lists: RegionLists, per_image: int) -> RegionLists:
    """The localizer's best boxes of each image, for each query."""
    return RegionLists(tuple(select_regions(one, per_image=per_image) for one in lists.lists))


def rank_regions(
    lists: RegionLists,
    embedder: RegionEmbedder,
    queries: Sequence[Query],
    gallery: Sequence[dict],
    share_iou: float = 1.0,
) -> RegionLists:
    """Boxes in the order of the ranker's cosine with their query; on this process alone.

    Args:
        lists: with localizer scores.
        embedder: the ranker.
        queries: all that were searched for; one without a box gets an empty list.
        gallery: Detectron2 dicts of the images.
        share_iou: boxes of an image that overlap more than this share the embedding of the one
            with the best score; 1 embeds every box by itself.
    """
    found = _join(lists)
    files = {int(one["image_id"]): one["file_name"] for one in gallery}
    places = [(one.primary.file_name, one.primary.box) for one in queries]
    shown = embedder.embed([Region(*place) for place in places])
    rows, place_of = shared_boxes(found, share_iou)
    regions = [
        Region(files[image_id], tuple(box))
        for image_id, box in zip(found.image_ids[rows].tolist(), found.boxes[rows].tolist())
    ]
    logger.info("%d boxes of %d queries, %d embedded", len(found), len(queries), len(regions))
    row_of = {one.id: row for row, one in enumerate(queries)}
    of_query = np.array([row_of[query_id] for query_id in found.query_ids.tolist()], np.int64)
    similarities = _cosines(embedder.embed(regions), place_of, shown, of_query)
    return _lists(found, queries, similarities)


def _cosines(
    regions: np.ndarray, place_of: np.ndarray, queries: np.ndarray, of_query: np.ndarray
) -> np.ndarray:
    """(N,) cosines of rows of unit length: N boxes share the embeddings of regions and queries."""
    similarities = np.empty(len(place_of), np.float32)
    for start in range(0, len(place_of), _COMPARED):
        some = slice(start, start + _COMPARED)
        pairs = regions[place_of[some]], queries[of_query[some]]
        similarities[some] = np.einsum("nd,nd->n", *pairs)
    return similarities


def shared_boxes(found: Found, share_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes stand for which.

    Args:
        found: N boxes.
        share_iou: see `rank_regions`.

    Returns:
        (K,) rows of the boxes that stand for themselves and others, and (N,) for each box the
        position of its own in these.
    """
    if share_iou >= 1 or not len(found):
        everyone = np.arange(len(found))
        return everyone, everyone
    kept_rows: list[np.ndarray] = []
    place = np.zeros(len(found), np.int64)
    taken = 0
    order = np.argsort(found.image_ids, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(found.image_ids[order])) + 1):
        boxes = torch.from_numpy(found.boxes[rows])
        kept = nms(boxes, torch.from_numpy(found.scores[rows]), share_iou)
        place[rows] = taken + box_iou(boxes, boxes[kept]).argmax(dim=1).numpy()
        kept_rows.append(rows[kept.numpy()])
        taken += len(kept)
    return np.concatenate(kept_rows), place


def lists_by_score(found: Found, queries: Sequence[Query]) -> RegionLists:
    """Boxes in the order of their own scores, which are the lists' localizer scores too.

    Args:
        found: boxes of the queries.
        queries: all that were searched for; one without a box gets an empty list.
    """
    return _lists(found, queries, found.scores)


def _lists(found: Found, queries: Sequence[Query], similarities: np.ndarray) -> RegionLists:
    order = np.argsort(found.query_ids, kind="stable")
    ids = found.query_ids[order]
    lists = []
    for one in queries:
        rows = order[np.searchsorted(ids, one.id) : np.searchsorted(ids, one.id, side="right")]
        lists.append(
            RegionList.ranked(
                one.id,
                found.image_ids[rows],
                found.boxes[rows],
                similarities[rows],
                found.scores[rows],
            )
        )
    return RegionLists(tuple(lists))


def _join(lists: RegionLists) -> Found:
    parts = []
    for one in lists.lists:
        if one.localizer_scores is None:
            raise ValueError(f"the region list of query {one.query_id} has no localizer scores")
        ids = np.full(len(one), one.query_id, np.int64)
        parts.append(Found(ids, one.image_ids, one.boxes, one.localizer_scores))
    return Found.join(parts)
