"""Pseudo labels that the shots of all classes agree with (beyond the SPIL paper)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from detectron2.utils import comm
from tqdm import tqdm

from ..retrieval import RegionIndex, SearchEngine, build_search_engine
from ..retrieval.search import embed_queries, read_rgb
from ..selftrain.pseudo_labels import drop_labels
from ..selftrain.verification import METHODS, most_similar_labels, verify_labels
from ..structures import Query, RankLists, SamplePool
from .search_stage import open_index

logger = logging.getLogger(__name__)

Place = tuple[int, int]
"""(query id, image id)."""


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
            raise ValueError(f"FEW_SHOT.VERIFY.METHOD is {method!r}: use one of {METHODS}")
        self._engine = engine
        self._index = index
        self._files = {int(one["image_id"]): one["file_name"] for one in gallery}
        self._categories = {one.id: one.category_id for one in shots}
        self._shots = embed_queries(engine, shots)
        self._shot_categories = np.array([one.category_id for one in shots])
        self._method, self._k, self._keep = method, k, keep

    def verify(self, pool: SamplePool, engine_lists: RankLists) -> SamplePool:
        """The pool without the labels that the shots speak against.

        Args:
            pool: V of a stage.
            engine_lists: Z, for the candidates that lose their labels.
        """
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
        for one in pool.queries:
            for candidate in one.candidates:
                if candidate.target is not None and one.query_id in self._categories:
                    boxes[candidate.image_id].append((one.query_id, candidate.target.box))
        places: list[Place] = []
        embeddings = []
        for image_id, members in tqdm(boxes.items(), "verifying"):
            places += [(query_id, image_id) for query_id, _ in members]
            corners = np.array([box for _, box in members], np.float32)
            embeddings.append(self._engine.embed(read_rgb(self._files[image_id]), corners))
        return places, np.concatenate(embeddings) if embeddings else np.zeros((0, 0), np.float32)


def build_verifier(cfg, gallery: Sequence[dict], queries: Sequence[Query]) -> LabelVerifier | None:
    """The verifier of a configuration, on the main process; None elsewhere, or where it is off."""
    node = cfg.FEW_SHOT.VERIFY
    if not node.ENABLED or not comm.is_main_process():
        return None
    index = open_index(cfg, cfg.DATASETS.TRAIN[0], gallery, cfg.OUTPUT_DIR)
    options = {"method": node.METHOD, "k": node.K, "keep": node.KEEP}
    return LabelVerifier(build_search_engine(cfg), index, gallery, queries, **options)
