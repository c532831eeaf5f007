"""The stages of self-paced training: what each one trains on, and what it has reached."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm

from ..data.pair_mapper import VectorTable
from ..evaluation import GroundTruth, evaluate_rank_lists
from ..selftrain.pseudo_labels import initial_pool, select_pseudo_labels
from ..structures import Query, RankLists, SamplePool
from ..utils.artifacts import check_fingerprint, is_published, publish_directory, read_manifest
from .box_refinement import BoxRefiner
from .coattention_labels import CoAttentionLabeler
from .localizer import Localizer
from .pool_statistics import pool_statistics

logger = logging.getLogger(__name__)

POOL, LOCALIZED, VECTORS = "pool.json.gz", "rank_lists.npz", "vectors.npz"


class SelfTraining:
    """Makes, publishes and loads the sample pool of each stage.

    `stages/KK/` holds what stage K trains on (`pool.json.gz`) and, for K > 0, what the model
    reached after stage K - 1 (`rank_lists.npz`, and metrics in the manifest where ground truth
    exists). The folder after the last stage's holds the final result.
    """

    def __init__(
        self,
        localizer: Localizer,
        rank_lists: RankLists,
        queries: Sequence[Query],
        ground_truth: GroundTruth | None,
        refiner: BoxRefiner | None,
        labeler: CoAttentionLabeler | None,
        *,
        directory: Path,
        fingerprint: str,
        num_stages: int,
        train_top_k: int,
        stage_top_k: int,
        thresholds: Sequence[float],
        num_crops: int,
        cache_vectors: bool,
    ):
        """
        Args:
            localizer: of the model in training.
            rank_lists: of the search engine.
            queries: to train on.
            ground_truth: judges the stages where it is known; training never sees it.
            refiner: moves the pseudo boxes to the objects' borders, or None.
            labeler: adds masks and look-alikes, or None.
            directory: `OUTPUT_DIR/stages`.
            fingerprint: of the configuration that the stages depend on.
            num_stages: K + 1.
            train_top_k: length of the lists that training draws from.
            stage_top_k: length of the lists that are localized after a stage, -1 for all of them;
                after the last stage it is always all. Shorter lists have no metrics.
            thresholds: τ of the stages 1, 2, ...; one more than those for the final pool.
            num_crops: n of Eq. 3.
            cache_vectors: publish the object vectors of all crops (frozen backbone).
        """
        self._localizer = localizer
        self._rank_lists = rank_lists
        self._queries = list(queries)
        self._ground_truth = ground_truth
        self._refiner = refiner
        self._labeler = labeler
        self._directory = directory
        self._fingerprint = fingerprint
        self._num_stages = num_stages
        self._train_top_k = train_top_k
        self._stage_top_k = stage_top_k
        self._thresholds = list(thresholds)
        self._num_crops = num_crops
        self._cache_vectors = cache_vectors

    def folder(self, stage: int) -> Path:
        """Where a stage is published."""
        return self._directory / f"{stage:02d}"

    def pool(self, stage: int, iteration: int) -> SamplePool:
        """V of a stage: loaded if published, else made from the stage before it and published.

        Args:
            stage: 0 .. K + 1; K + 1 is the final result.
            iteration: of the run, for the manifest.
        """
        folder = self.folder(stage)
        if not is_published(folder):
            self._make(stage, iteration)
        comm.synchronize()
        check_fingerprint(folder, self._fingerprint)
        return SamplePool.load(folder / POOL)

    def vectors(self, pool: SamplePool) -> VectorTable | None:
        """Object vectors of all crops of a published pool, if they are cached."""
        if not self._cache_vectors:
            return None
        with np.load(self.folder(pool.stage) / VECTORS, allow_pickle=False) as data:
            keys, values = data["keys"], torch.from_numpy(data["values"])
        return {(int(q), int(position)): v for (q, position), v in zip(keys, values)}

    def localized(self, stage: int) -> RankLists:
        """What the model reached before stage `stage` (>= 1)."""
        return RankLists.load(self.folder(stage) / LOCALIZED)

    def manifest(self, stage: int) -> dict:
        """The stage's manifest: `statistics`, `threshold`, and `metrics` where they are known."""
        return read_manifest(self.folder(stage))

    def _make(self, stage: int, iteration: int) -> None:
        localized: RankLists | None = None
        if stage == 0:
            pool = initial_pool(self._queries, self._rank_lists, self._train_top_k)
        else:
            before = self.pool(stage - 1, iteration)
            logger.info("stage %d has ended: localizing its rank lists", stage - 1)
            table = self._localizer.encode_pool(before, self._num_crops)
            localized = self._localizer.localize(
                self._lists_after(stage - 1), before, table, f"localizing after stage {stage - 1}"
            )
        if comm.is_main_process() and stage > 0:
            assert localized is not None
            pool = self._select(before, localized)
        # Nothing trains on the pool after the last stage: it needs neither masks nor vectors.
        is_trained_on = stage < self._num_stages
        if comm.is_main_process() and is_trained_on:
            if self._refiner is not None and stage > 0:
                pool = self._refiner.refine_pool(pool)
            if self._labeler is not None:
                pool = self._labeler.label(pool)
        # Every process encodes its share of the crops, so all need the pool of the main one.
        pool = comm.all_gather(pool if comm.is_main_process() else None)[0]
        vectors = None
        if self._cache_vectors and is_trained_on:
            vectors = self._localizer.encode_pool(pool, self._train_top_k)
        if comm.is_main_process():
            self._publish(stage, iteration, pool, localized, vectors)

    def _lists_after(self, stage: int) -> RankLists:
        """What is localized when a stage has ended."""
        if self._stage_top_k < 0 or stage == self._num_stages - 1:
            return self._rank_lists
        return self._rank_lists.top(self._stage_top_k)

    def _select(self, before: SamplePool, localized: RankLists) -> SamplePool:
        tau = self._thresholds[before.stage]
        pool = select_pseudo_labels(before, self._rank_lists, localized, tau)
        if pool.num_targets:
            return pool
        best = max(
            float(one.probabilities[: self._train_top_k].max(initial=0.0))
            for one in localized.lists
            if one.probabilities is not None
        )
        logger.warning(
            "no candidate of stage %d passes the threshold %.3f (the best has %.3f): its pool "
            "stays as it was; lower SPIL.TAU or train longer",
            pool.stage,
            tau,
            best,
        )
        return replace(before, stage=pool.stage)

    def _publish(
        self,
        stage: int,
        iteration: int,
        pool: SamplePool,
        localized: RankLists | None,
        vectors: VectorTable | None,
    ) -> None:
        manifest = {
            "stage": stage,
            "iteration": iteration,
            "fingerprint": self._fingerprint,
            "statistics": pool_statistics(pool, self._ground_truth),
        }
        if localized is not None:
            manifest["threshold"] = self._thresholds[stage - 1]
            is_whole = self._lists_after(stage - 1) is self._rank_lists
            if self._ground_truth is not None and is_whole:
                manifest["metrics"] = evaluate_rank_lists(localized, self._ground_truth)
        logger.info("stage %d starts with %s", stage, json.dumps(manifest["statistics"]))

        def write(path: Path) -> None:
            pool.save(path / POOL)
            if localized is not None:
                localized.save(path / LOCALIZED)
            if vectors is not None:
                keys = np.array(list(vectors), np.int64).reshape(-1, 2)
                values = torch.stack(list(vectors.values())).numpy()
                np.savez(path / VECTORS, keys=keys, values=values)

        publish_directory(self.folder(stage), write, manifest)
