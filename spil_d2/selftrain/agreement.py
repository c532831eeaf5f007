"""What the rank lists of many seeds agree upon: better seeds than the proposals they came from.

Most proposals are no objects, but what is found for them is one far more often: a localizer answers
a piece of an object, or of the ground before it, with the object. A box that it gives for many
seeds is a better seed than any of these. Beyond the paper, whose seeds stay the same in all rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from ..structures import Query, RegionList, RegionLists
from .neighbor_graph import nearest_neighbors
from .seeds import QuerySeeds

SOURCE = "agreement"


@dataclass(frozen=True)
class AgreementSettings:
    """How boxes of an image become seeds.

    Attributes:
        per_image: seeds of an image, at most.
        vote_iou: a box votes for another one, and for itself, when their IoU is larger.
        suppress_iou: of two seeds of an image, at most.
        min_votes: of a seed.
        max_voters: boxes of an image that vote: those that look most like what they were found for.
    """

    per_image: int = 1
    vote_iou: float = 0.7
    suppress_iou: float = 0.3
    min_votes: int = 2
    max_voters: int = 1000

    def __post_init__(self) -> None:
        counts = self.per_image, self.min_votes, self.max_voters
        if min(counts) < 1 or not 0 < self.suppress_iou <= self.vote_iou < 1:
            raise ValueError(
                f"CST.AGREEMENT is {self}: counts are at least 1, and 0 < SUPPRESS_IOU <= VOTE_IOU "
                "< 1"
            )


def agreed_regions(
    seeds: Sequence[Query], lists: RegionLists, settings: AgreementSettings
) -> QuerySeeds:
    """The boxes that most lists have on each image.

    Each seed has one voice on an image other than its own: its first box there. The box with the
    most votes, and at equal votes the one that looks most like its seed, is the image's first; it
    becomes the median of those that voted for it, coordinate by coordinate. Further ones follow
    among the boxes that it does not suppress.

    Args:
        seeds: of the lists.
        lists: regions by the ranker's similarity.
        settings: thresholds.

    Returns:
        Seeds by image id and place, with their votes as scores.

    Raises:
        ValueError: the lists agree on no image.
    """
    image_ids, boxes, similarities = _voices(seeds, lists)
    found: list[tuple[int, np.ndarray, int]] = []
    order = np.argsort(image_ids, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(image_ids[order])) + 1):
        rows = rows[np.argsort(-similarities[rows], kind="stable")][: settings.max_voters]
        for box, votes in elect_boxes(boxes[rows], settings):
            found.append((int(image_ids[rows[0]]), box, votes))
    if not found:
        raise ValueError(
            f"the lists of {len(lists)} seeds agree on no image: lower CST.AGREEMENT.MIN_VOTES "
            f"({settings.min_votes}), or search more seeds or images"
        )
    return QuerySeeds(
        np.array([one[0] for one in found], np.int64),
        np.array([one[1] for one in found], np.float32),
        np.array([one[2] for one in found], np.float32),
        np.zeros(len(found), np.int64),
        (SOURCE,),
    )


def elect_boxes(boxes: np.ndarray, settings: AgreementSettings) -> list[tuple[np.ndarray, int]]:
    """The seeds of one image.

    Args:
        boxes: (M, 4) XYXY_ABS, what looks most like its seed first.
        settings: thresholds.

    Returns:
        Boxes (4,) with their votes, most votes first.
    """
    corners = torch.from_numpy(np.asarray(boxes, np.float64))
    ious = box_iou(corners, corners).numpy()
    is_left = np.ones(len(boxes), bool)
    elected: list[tuple[np.ndarray, int]] = []
    while is_left.any() and len(elected) < settings.per_image:
        voters = (ious > settings.vote_iou) & is_left
        votes = np.where(is_left, voters.sum(axis=1), 0)
        first = int(votes.argmax())
        if votes[first] < settings.min_votes:
            break
        elected.append((np.median(boxes[voters[first]], axis=0), int(votes[first])))
        is_left &= ious[first] < settings.suppress_iou
    return elected


def lists_among(
    seeds: QuerySeeds, embeddings: np.ndarray, top_k: int, exact_limit: int
) -> RegionLists:
    """For each seed the seeds of other images that look most like it, with their cosines.

    Args:
        seeds: N agreed regions.
        embeddings: (N, D) float32, L2-normalized.
        top_k: length of a list, at most.
        exact_limit: see `nearest_neighbors`.
    """
    most = int(np.unique(seeds.image_ids, return_counts=True)[1].max())
    indices, cosines = nearest_neighbors(embeddings, top_k + most - 1, exact_limit)
    lists = []
    for seed, (others, similarities) in enumerate(zip(indices, cosines)):
        # FAISS fills up with -1.
        is_kept = (others >= 0) & (seeds.image_ids[others] != seeds.image_ids[seed])
        others, similarities = others[is_kept][:top_k], similarities[is_kept][:top_k]
        columns = seeds.image_ids[others], seeds.boxes[others], similarities
        lists.append(RegionList.ranked(seed, *columns))
    return RegionLists(tuple(lists))


def _voices(
    seeds: Sequence[Query], lists: Mapping[int, RegionList]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image ids (M,), boxes (M, 4) and similarities (M,) of all seeds' first boxes."""
    taken = []
    for seed in seeds:
        one = lists[seed.id]
        first = np.sort(np.unique(one.image_ids, return_index=True)[1])
        taken.append(one.take(first[~np.isin(one.image_ids[first], list(seed.own_image_ids))]))
    return (
        np.concatenate([one.image_ids for one in taken]),
        np.concatenate([one.boxes for one in taken]),
        np.concatenate([one.similarities for one in taken]),
    )
