"""The stages of self-paced training: what each one trains on, and what it has reached."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from detectron2.utils import comm

from ..data.pair_mapper import VectorTable
from ..evaluation import GroundTruth, evaluate_rank_lists
from ..selftrain.ignore_regions import add_ignore_regions
from ..selftrain.list_expansion import extend_pool, join_localized, without_images
from ..selftrain.pseudo_labels import initial_pool, select_pseudo_labels
from ..structures import Query, RankLists, RegionLists, SamplePool
from ..utils.artifacts import check_fingerprint, is_published, publish_directory, read_manifest
from .box_refinement import BoxRefiner
from .coattention_labels import CoAttentionLabeler
from .label_settings import LabelSettings
from .label_verification import Verifier
from .list_expansion import EXPANDED, INSTANCES, Expansion, ListExpander
from .localizer import Localizer
from .pool_statistics import pool_statistics
from .second_look import find_other_boxes, refine_boxes

logger = logging.getLogger(__name__)

POOL, LOCALIZED, VECTORS = "pool.json.gz", "rank_lists.npz", "vectors.npz"
OTHERS = "other_boxes.npz"

T = TypeVar("T")


@dataclass(frozen=True)
class _Reached:
    """What a stage has reached when it has ended.

    Attributes:
        pool: V of the stage, with all candidates that the next one may have.
        lists: of the search engine, those that the next stage has.
        localized: the model's boxes on them; on the main process, elsewhere None.
        expansion: where the lists have grown.
    """

    pool: SamplePool
    lists: RankLists
    localized: RankLists | None
    expansion: Expansion | None = None


class SelfTraining:
    """Makes, publishes and loads the sample pool of each stage.

    `stages/KK/` holds what stage K trains on (`pool.json.gz`) and, for K > 0, what the model
    reached after stage K - 1 (`rank_lists.npz`, and metrics in the manifest where ground truth
    exists). The folder after the last stage's holds the final result. In few-shot detection there
    may also be the longer rank lists that begin with stage K (`expanded_lists.npz`) and the pseudo
    labels that searched for them (`instances.npz`), and the boxes beside the pseudo labels
    (`other_boxes.npz`).
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
        expander: ListExpander | None = None,
        verifier: Verifier | None = None,
        labels: LabelSettings | None = None,
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
            expander: makes the rank lists longer after one of the stages, or None.
            verifier: takes pseudo labels away, or None; it works on the main process alone.
            labels: second pass and ignore regions; None for neither.
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
        self._expander = expander
        self._verifier = verifier
        self._labels = labels or LabelSettings()

    def folder(self, stage: int) -> Path:
        """Where a stage is published."""
        return self._directory / f"{stage:02d}"

    def pool(self, stage: int, iteration: int) -> SamplePool:
        """V of a stage: loaded if published, else made from the stage before it and published.

        Args:
            stage: 0 .. K + 1; K + 1 is the final result.
            iteration: of the run, for the manifest.

        Raises:
            FileNotFoundError: it would be made of a stage that is missing, or beside a later one.
        """
        folder = self.folder(stage)
        if not is_published(folder):
            self._check_others(stage)
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

    def _check_others(self, stage: int) -> None:
        """The model is at the end of the stage before: no other stage may be made now."""
        there = [is_published(self.folder(k)) for k in range(self._num_stages + 1)]
        if not all(there[:stage]) or any(there[stage:]):
            missing = there.index(False)
            raise FileNotFoundError(
                f"{self.folder(missing)} is missing, and the model has been trained on since: copy "
                "it back, or start anew without --resume"
            )

    def _make(self, stage: int, iteration: int) -> None:
        reached: _Reached | None = None
        pool: SamplePool | None = None
        table: VectorTable = {}
        if stage == 0:
            pool = initial_pool(self._queries, self._rank_lists, self._train_top_k)
        else:
            before = self.pool(stage - 1, iteration)
            logger.info("stage %d has ended: localizing its rank lists", stage - 1)
            table = self._localizer.encode_pool(before, self._num_crops)
            reached = self._reach(before, table)
            pool = self._select(reached)
        # Nothing trains on the pool after the last stage: it needs neither masks nor vectors.
        is_trained_on = stage < self._num_stages
        if comm.is_main_process() and is_trained_on:
            assert pool is not None, "the main process has the pool"
            if self._refiner is not None and stage > 0:
                pool = self._refiner.refine_pool(pool)
            if self._labeler is not None:
                pool = self._labeler.label(pool)
        # Every process encodes its share of the crops, so all need the pool of the main one.
        pool = _from_main(pool)
        others = None
        if reached is not None and is_trained_on and self._labels.ignore_margin is not None:
            pool, others = self._ignore_others(pool, before, table)
        vectors = None
        if self._cache_vectors and is_trained_on:
            longest = max((len(one.candidates) for one in pool.queries), default=0)
            vectors = self._localizer.encode_pool(pool, longest)
        if comm.is_main_process():
            self._publish(stage, iteration, pool, reached, others, vectors)

    def _reach(self, pool: SamplePool, table: VectorTable) -> _Reached:
        """The model's boxes after the stage of a pool, and longer lists where they grow."""
        lists = self._lists(pool.stage)
        given = lists if self._is_whole(pool.stage) else lists.top(self._stage_top_k)
        localized = self._localize(given, pool, table)
        if self._expander is None or pool.stage != self._expander.settings.after_stage:
            return _Reached(pool, lists, localized)
        expansion = None
        if localized is not None:
            tau = self._expander.settings.threshold
            expansion = self._expander.expand(lists, self._label(pool, lists, localized, tau))
        expansion = _from_main(expansion)
        rest = self._localize(without_images(expansion.lists, given), pool, table)
        if localized is not None and rest is not None:
            localized = join_localized(expansion.lists, (localized, rest))
        longer = extend_pool(pool, expansion.lists)
        return _Reached(longer, expansion.lists, localized, expansion)

    def _localize(self, lists: RankLists, pool: SamplePool, table: VectorTable) -> RankLists | None:
        """The localizer's boxes after a stage, those of a second pass where it is on."""
        stage = pool.stage
        localized = self._localizer.localize(lists, pool, table, f"localizing after stage {stage}")
        is_final = stage == self._num_stages - 1
        if not (self._labels.final_second_pass if is_final else self._labels.second_pass):
            return localized
        kernel_of = self._localizer.kernels(pool, table)
        tau = self._thresholds[stage]
        return refine_boxes(self._localizer, _from_main(localized), kernel_of, tau)

    def _lists(self, stage: int) -> RankLists:
        """The search engine's lists that a stage has."""
        if self._expander is None or stage <= self._expander.settings.after_stage:
            return self._rank_lists
        return RankLists.load(self.folder(self._expander.settings.after_stage + 1) / EXPANDED)

    def _is_whole(self, stage: int) -> bool:
        """Whether all of the lists, or their heads alone, are localized after a stage."""
        is_expanded = self._expander is not None and stage > self._expander.settings.after_stage
        return is_expanded or self._stage_top_k < 0 or stage == self._num_stages - 1

    def _label(
        self, pool: SamplePool, lists: RankLists, localized: RankLists, tau: float
    ) -> SamplePool:
        """The pool of the next stage by its threshold and, where it is on, the verifier."""
        labelled = select_pseudo_labels(pool, lists, localized, tau)
        if self._verifier is None:
            return labelled
        return self._verifier.verify(labelled, lists)

    def _select(self, reached: _Reached) -> SamplePool | None:
        """V of the next stage on the main process, elsewhere None."""
        before, localized = reached.pool, reached.localized
        if localized is None:
            return None
        tau = self._thresholds[before.stage]
        pool = self._label(before, reached.lists, localized, tau)
        if pool.num_targets:
            return pool
        best = max(
            float(one.probabilities[: len(before[one.query_id].candidates)].max(initial=0.0))
            for one in localized.lists
            if one.probabilities is not None
        )
        logger.warning(
            "no candidate of stage %d passes the threshold %.3f (the best has %.3f)%s: its pool "
            "stays as it was; lower SPIL.TAU or train longer",
            pool.stage,
            tau,
            best,
            "" if self._verifier is None else " and FEW_SHOT.VERIFY",
        )
        return replace(before, stage=pool.stage)

    def _ignore_others(
        self, pool: SamplePool, before: SamplePool, table: VectorTable
    ) -> tuple[SamplePool, RegionLists | None]:
        """The pool with ignore regions around its pseudo labels, and the boxes they come from.

        Args:
            pool: V of the stage to come.
            before, table: V of the stage that has ended and its vectors, for the kernels.
        """
        assert self._labels.ignore_margin is not None, "asked for where ignore regions are on"
        above = self._thresholds[before.stage] - self._labels.ignore_margin
        kernel_of = self._localizer.kernels(before, table)
        others = find_other_boxes(self._localizer, pool, kernel_of, above)
        if others is not None:
            pool = add_ignore_regions(pool, others, self._labels.ignore_max_iou)
        return _from_main(pool), others

    def _publish(
        self,
        stage: int,
        iteration: int,
        pool: SamplePool,
        reached: _Reached | None,
        others: RegionLists | None,
        vectors: VectorTable | None,
    ) -> None:
        manifest = {
            "stage": stage,
            "iteration": iteration,
            "fingerprint": self._fingerprint,
            "statistics": pool_statistics(pool, self._ground_truth),
        }
        files: dict[str, RankLists | RegionLists] = {}
        if reached is not None:
            assert reached.localized is not None, "the main process has the localized lists"
            manifest["threshold"] = self._thresholds[stage - 1]
            files[LOCALIZED] = reached.localized
            is_whole = self._is_whole(stage - 1) or reached.expansion is not None
            if self._ground_truth is not None and is_whole:
                manifest["metrics"] = evaluate_rank_lists(reached.localized, self._ground_truth)
            if reached.expansion is not None:
                files[EXPANDED] = reached.expansion.lists
                files[INSTANCES] = reached.expansion.instances
        if others is not None:
            files[OTHERS] = others
        logger.info("stage %d starts with %s", stage, json.dumps(manifest["statistics"]))

        def write(path: Path) -> None:
            pool.save(path / POOL)
            for name, lists in files.items():
                lists.save(path / name)
            if vectors is not None:
                keys = np.array(list(vectors), np.int64).reshape(-1, 2)
                values = torch.stack(list(vectors.values())).numpy()
                np.savez(path / VECTORS, keys=keys, values=values)

        publish_directory(self.folder(stage), write, manifest)


def _from_main(value: T | None) -> T:
    """What the main process has, on all processes."""
    return comm.all_gather(value if comm.is_main_process() else None)[0]
