"""Pseudo labels that the shots of all classes agree with (beyond the SPIL paper).

For studies, labels that the ground truth agrees with: what the shots' verdict could reach at most.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from detectron2.utils import comm
from tqdm import tqdm

from ..evaluation import GroundTruth, best_ious
from ..retrieval import RegionIndex, SearchEngine, build_search_engine
from ..retrieval.search import embed_queries, read_rgb
from ..selftrain.pseudo_labels import drop_labels
from ..selftrain.verification import METHODS, most_similar_labels, verify_labels
from ..structures import Query, RankLists, SamplePool, Target
from .search_stage import open_index

logger = logging.getLogger(__name__)

ORACLE = "oracle"
"""FEW_SHOT.VERIFY.METHOD of `OracleVerifier`."""

Place = tuple[int, int]
"""(query id, image id)."""


class Verifier(Protocol):
    """Takes pseudo labels away."""

    def verify(self, pool: SamplePool, engine_lists: RankLists) -> SamplePool:
        """The pool without the labels that are not believed.

        Args:
            pool: V of a stage.
            engine_lists: Z, for the candidates that lose their labels.
        """
        ...


class LabelVerifier:
    """Takes pseudo labels away that the shots speak against (see `METHODS`).

    Box and shots are compared as the search engine compares regions. Labels of queries whose class
    is not known stay.
    """

    def __init__(
        self,
        engine: SearchEngine,
        index: RegionIndex,
        gallery: Sequence[dict],
        queries: Sequence[Query],
        *,
        method: str = "vote",
        k: int = 5,
        keep: float = 0.4,
    ):
        """
        Args:
            engine, index: those of the rank lists.
            gallery: Detectron2 dicts.
            queries: of the pools to come; those with a `category_id` are the shots.
            method: one of `METHODS`.
            k: shots that vote on a label.
            keep: part of a class's labels that stays by the mean of the shots.

        Raises:
            ValueError: for k < 1, another method, or queries of which none has a class.
        """
        shots = [one for one in queries if one.category_id is not None]
        if not shots or k < 1:
            raise ValueError(
                f"FEW_SHOT.VERIFY needs K >= 1, got {k}, and queries with a category_id, got "
                f"{len(shots)} of {len(queries)}: use a few-shot dataset, or switch it off"
            )
        if method not in METHODS:
            methods = (*METHODS, ORACLE)
            raise ValueError(f"FEW_SHOT.VERIFY.METHOD is {method!r}: use one of {methods}")
        self._engine = engine
        self._index = index
        self._files = {int(one["image_id"]): one["file_name"] for one in gallery}
        self._categories = {one.id: one.category_id for one in shots}
        self._shots = embed_queries(engine, shots)
        self._shot_categories = np.array([one.category_id for one in shots])
        self._method, self._k, self._keep = method, k, keep

    def verify(self, pool: SamplePool, engine_lists: RankLists) -> SamplePool:
        """The pool without the labels that the shots speak against (see `Verifier`)."""
        places, embeddings = self._embed(pool)
        if not places:
            return pool
        compared = (
            self._index.compare(self._shots, embeddings).T,
            self._shot_categories,
            np.array([self._categories[query_id] for query_id, _ in places]),
        )
        if self._method == "vote":
            kept = verify_labels(*compared, self._k)
        else:
            kept = most_similar_labels(*compared, self._keep)
        logger.info("the shots agree with %d of %d pseudo labels", kept.sum(), len(kept))
        rejected = {place for place, is_kept in zip(places, kept) if not is_kept}
        return drop_labels(pool, engine_lists, rejected)

    def _embed(self, pool: SamplePool) -> tuple[list[Place], np.ndarray]:
        """Places of B pseudo labels of known classes, and their embeddings (B, D)."""
        boxes: dict[int, list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
        for (query_id, image_id), target in _labels(pool):
            if query_id in self._categories:
                boxes[image_id].append((query_id, target.box))
        places: list[Place] = []
        embeddings = []
        for image_id, members in tqdm(boxes.items(), "verifying"):
            places += [(query_id, image_id) for query_id, _ in members]
            corners = np.array([box for _, box in members], np.float32)
            embeddings.append(self._engine.embed(read_rgb(self._files[image_id]), corners))
        return places, np.concatenate(embeddings) if embeddings else np.zeros((0, 0), np.float32)


class OracleVerifier:
    """Takes wrong pseudo labels away, by the ground truth: an upper bound, for studies alone.

    A label is right where its image shows the query's instance (in few-shot detection: its class)
    and the IoU with one of its boxes is at least `min_iou`. Labels of queries without a relevant
    image are all wrong.
    """

    def __init__(self, ground_truth: GroundTruth, min_iou: float = 0.5):
        self._relevant = ground_truth.relevant
        self._min_iou = min_iou

    def verify(self, pool: SamplePool, engine_lists: RankLists) -> SamplePool:
        """The pool without wrong labels (see `Verifier`)."""
        places = dict(_labels(pool))
        boxes = np.array([target.box for target in places.values()], np.float32).reshape(-1, 4)
        shown = [
            self._relevant.get(query_id, {}).get(image_id, np.zeros((0, 4), np.float32))
            for query_id, image_id in places
        ]
        is_right = best_ious(boxes, shown) >= self._min_iou
        logger.warning(
            "the ground truth has chosen %d of %d pseudo labels: what is trained on them is an "
            "upper bound, and no unsupervised result",
            is_right.sum(),
            len(places),
        )
        rejected = {place for place, right in zip(places, is_right) if not right}
        return drop_labels(pool, engine_lists, rejected)


def build_verifier(
    cfg, gallery: Sequence[dict], queries: Sequence[Query], ground_truth: GroundTruth | None
) -> Verifier | None:
    """The verifier of a configuration, on the main process; None elsewhere, or where it is off.

    Raises:
        ValueError: the oracle is asked for, and there is no ground truth; what `LabelVerifier`
            refuses.
    """
    node = cfg.FEW_SHOT.VERIFY
    if not node.ENABLED or not comm.is_main_process():
        return None
    if node.METHOD == ORACLE:
        if ground_truth is None:
            raise ValueError(
                f"FEW_SHOT.VERIFY.METHOD {ORACLE!r} needs ground truth, and "
                f"{cfg.DATASETS.TRAIN[0]!r} has none: use one of {METHODS}"
            )
        return OracleVerifier(ground_truth)
    index = open_index(cfg, cfg.DATASETS.TRAIN[0], gallery, cfg.OUTPUT_DIR)
    options = {"method": node.METHOD, "k": node.K, "keep": node.KEEP}
    return LabelVerifier(build_search_engine(cfg), index, gallery, queries, **options)


def _labels(pool: SamplePool) -> Iterator[tuple[Place, Target]]:
    """All pseudo labels, with their places."""
    for one in pool.queries:
        for candidate in one.candidates:
            if candidate.target is not None:
                yield (one.query_id, candidate.image_id), candidate.target
