"""Self-paced training of QueryRCNN with Detectron2's trainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase, hooks
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from ..config.few_shot_stages import STAGE_NODES
from ..data.build import PairDataset, build_pair_loader
from ..data.datasets.instance_search import get_queries
from ..data.pair_mapper import PairMapper, VectorTable
from ..evaluation import GroundTruth
from ..ops.coattention import EXTRAS, SETS
from ..selftrain.pairs import PairSampler
from ..structures import Query, SamplePool
from ..structures.sample_pool import check_v_policy
from ..utils.artifacts import fingerprint, is_published, remove_artefact
from .checkpoint import FinalCheckpointer, load_weights, save_weights
from .label_settings import LabelSettings
from .list_expansion import ExpansionSettings
from .search_stage import search_dataset
from .self_training_build import build_self_training
from .stages import STAGE_INITS, StageHook, StagePlan, StageSchedule
from .training import LocalizerTrainer, SeedHook, build_pair_mapper
from .training_run import kept_keys, named_pairs, noted_failures

logger = logging.getLogger(__name__)

INITIAL_WEIGHTS = "model_initial.pth"
RESULT_KEYS = ("RERANK", "RERANK_SHARE", "RERANK_POWER")
"""Of SEARCH: what the final order depends on, and no stage."""


class SpilTrainer(LocalizerTrainer):
    """LocalizerTrainer whose loader changes with the stage.

    A run is a function of its configuration and SEED: killed anywhere and resumed, it draws the
    same pairs and the same random numbers as the undisturbed run.
    """

    def __init__(self, cfg, resume: bool = False):
        """
        Args:
            cfg: frozen; DATASETS.TRAIN names one `ins_*` dataset.
            resume: go on in OUTPUT_DIR; else stages and results of an earlier run there are
                removed.
        """
        _check(cfg)
        if resume and cfg.SPIL.STAGE_INIT == "restart":
            _check_initial_weights(Path(cfg.OUTPUT_DIR))
        super().__init__(cfg)
        self._stream: tuple[PairDataset, PairMapper] | None = None
        if not resume:
            _forget_earlier_run(cfg)
        self.resume_or_load(resume=resume)
        if cfg.SPIL.STAGE_INIT == "restart" and self.start_iter == 0 and comm.is_main_process():
            save_weights(self.unwrapped_model, Path(cfg.OUTPUT_DIR) / INITIAL_WEIGHTS)
        self.gallery = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
        self.queries = get_queries(cfg.DATASETS.TRAIN[0])
        self.rank_lists = search_dataset(
            cfg, cfg.DATASETS.TRAIN[0], self.gallery, self.queries, cfg.OUTPUT_DIR
        )
        self.ground_truth = known_ground_truth(self.gallery, self.queries)
        self.self_training = build_self_training(
            cfg,
            self.unwrapped_model,
            self.gallery,
            self.queries,
            self.rank_lists,
            self.ground_truth,
            directory=Path(cfg.OUTPUT_DIR) / "stages",
            fingerprint=stage_fingerprint(cfg),
        )

    @property
    def plan(self) -> StagePlan:
        """Of the configuration that Detectron2 has scaled to the number of processes."""
        return StagePlan.from_config(self.cfg)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer: torch.optim.Optimizer) -> LRMultiplier:
        plan = StagePlan.from_config(cfg)
        return LRMultiplier(optimizer, StageSchedule(plan), plan.max_iter)

    def build_hooks(self) -> list[HookBase | None]:
        cfg = self.cfg
        writers = None
        if comm.is_main_process():
            writers = hooks.PeriodicWriter(self.build_writers(), period=self.log_period)
        return [
            SeedHook(cfg.SEED),
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            FinalCheckpointer(self.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD)
            if comm.is_main_process()
            else None,
            StageHook(self.plan, self.enter_stage),
            writers,
        ]

    def enter_stage(self, stage: int, iteration: int) -> None:
        """Make or load the stage's pool, and train on it from `iteration` on.

        Raises:
            FileNotFoundError: the stage began before `iteration`, and its pool is missing.
        """
        folder, start = self.self_training.folder(stage), (*self.plan.starts, self.max_iter)[stage]
        if iteration > start and not is_published(folder):
            raise FileNotFoundError(
                f"{folder} is missing: stage {stage} began at iteration {start}, and the weights "
                f"are those of {iteration}; copy it back, or start anew without --resume"
            )
        pool = self.self_training.pool(stage, iteration)
        self._log_stage(pool)
        if stage == self.plan.num_stages:
            return
        if iteration == self.plan.starts[stage]:
            # Each stage has an optimizer of its own (D13).
            self.optimizer.state.clear()
            if stage > 0 and self.cfg.SPIL.STAGE_INIT == "restart":
                load_weights(self.unwrapped_model, Path(self.cfg.OUTPUT_DIR) / INITIAL_WEIGHTS)
        self.reset_data_loader(pool, iteration)

    def reset_data_loader(self, pool: SamplePool, iteration: int) -> None:
        """Train on another pool: the public form of Detectron2's `SimpleTrainer` method."""
        cfg = self.cfg
        vectors = self.self_training.vectors(pool)
        self._stream = self._pairs(pool, vectors)
        loader = build_pair_loader(
            self._stream[0], iteration, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS
        )
        self._trainer.reset_data_loader(lambda: loader)

    def run_step(self) -> None:
        """As DefaultTrainer's; see `noted_failures`."""
        with noted_failures(self, self._batch):
            super().run_step()

    def _batch(self) -> list[dict]:
        assert self._stream is not None, "a step is run inside a stage"
        size = self.cfg.SOLVER.IMS_PER_BATCH
        return named_pairs(*self._stream, range(self.iter * size, (self.iter + 1) * size))

    def _pairs(
        self, pool: SamplePool, vectors: VectorTable | None
    ) -> tuple[PairDataset, PairMapper]:
        cfg = self.cfg
        own_images = {query.id: query.own_image_ids for query in self.queries}
        sampler = PairSampler(
            pool,
            own_images,
            num_crops=cfg.MODEL.QUERY.NUM_CROPS,
            swap_probability=None if cfg.SPIL.SWAP_PROB < 0 else cfg.SPIL.SWAP_PROB,
            contrastive=cfg.SPIL.CONTRASTIVE,
            max_shared_images=cfg.SPIL.MAX_SHARED_IMAGES,
            v_policy=cfg.SPIL.V_POLICY,
            classified=[query for query in self.queries if query.category_id is not None],
        )
        mapper = build_pair_mapper(cfg, pool, self.gallery, self.queries, vectors)
        return PairDataset(sampler.query_ids, sampler.draw, mapper, cfg.SEED), mapper

    def _log_stage(self, pool: SamplePool) -> None:
        """Stage decisions and metrics as scalars of TensorBoard and metrics.json."""
        manifest = self.self_training.manifest(pool.stage)
        scalars = {f"pace/{name}": value for name, value in manifest["statistics"].items()}
        for group, values in manifest.get("metrics", {}).items():
            scalars.update({f"{group}/{name}": value for name, value in values.items()})
        get_event_storage().put_scalars(
            smoothing_hint=False, **scalars, **{"pace/stage": pool.stage}
        )


def known_ground_truth(gallery: list[dict], queries: Sequence[Query]) -> GroundTruth | None:
    """Ground truth of a dataset, or None where no query has a relevant annotated image."""
    truth = GroundTruth.from_dataset(gallery, queries)
    return truth if truth.relevant else None


def stage_fingerprint(cfg) -> str:
    """Of all keys that the stages' pools depend on.

    Device, workers and what is only done to the result are not among them.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for key in RESULT_KEYS:
        del cfg.SEARCH[key]
    names = ("INPUT", "MODEL", "SOLVER", "SPIL", "SEARCH", "COATTENTION")
    return fingerprint(
        {
            "train": list(cfg.DATASETS.TRAIN),
            **kept_keys(cfg, names),
            "few_shot": {name: cfg.FEW_SHOT[name].dump() for name in STAGE_NODES},
            "detections": cfg.TEST.DETECTIONS_PER_IMAGE
            if cfg.FEW_SHOT.IGNORE_OTHERS.ENABLED
            else None,
        }
    )


def _check(cfg) -> None:
    if len(cfg.DATASETS.TRAIN) != 1:
        raise ValueError(f"DATASETS.TRAIN must name one dataset, got {cfg.DATASETS.TRAIN}")
    if cfg.SEED < 0:
        raise ValueError("SEED must be >= 0: a resumed run has to draw what the first one drew")
    if cfg.MODEL.QUERY.CACHE_VECTORS and cfg.MODEL.BACKBONE.FREEZE_AT < 5:
        raise ValueError(
            "MODEL.QUERY.CACHE_VECTORS needs a frozen backbone: set MODEL.BACKBONE.FREEZE_AT to 5"
        )
    check_v_policy(cfg.SPIL.V_POLICY)
    for key, value, allowed in (
        ("SPIL.STAGE_INIT", cfg.SPIL.STAGE_INIT, STAGE_INITS),
        ("COATTENTION.SET", cfg.COATTENTION.SET, SETS),
        ("COATTENTION.EXTRAS", cfg.COATTENTION.EXTRAS, EXTRAS),
    ):
        if value not in allowed:
            raise ValueError(f"{key} is {value!r}: use one of {allowed}")
    if 0 <= cfg.SPIL.STAGE_TOP_K < cfg.SPIL.TRAIN_TOP_K:
        raise ValueError(
            f"SPIL.STAGE_TOP_K is {cfg.SPIL.STAGE_TOP_K}: stages select among the first "
            f"SPIL.TRAIN_TOP_K = {cfg.SPIL.TRAIN_TOP_K} images; use that many or more, or -1"
        )
    if len(cfg.SPIL.TAU) < cfg.SPIL.NUM_STAGES:
        raise ValueError(
            f"SPIL.TAU has {len(cfg.SPIL.TAU)} thresholds; {cfg.SPIL.NUM_STAGES} stages need as "
            "many: one before each later stage, and one for the final pool"
        )
    ExpansionSettings.from_config(cfg)
    LabelSettings.from_config(cfg)
    if cfg.TEST.PRECISE_BN.ENABLED:
        raise ValueError("TEST.PRECISE_BN keeps a loader of its own: it cannot follow the stages")


def _check_initial_weights(output: Path) -> None:
    path = output / INITIAL_WEIGHTS
    if (output / "last_checkpoint").exists() and not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, and with SPIL.STAGE_INIT 'restart' later stages begin with it: "
            "copy it back, or start anew without --resume"
        )


def _forget_earlier_run(cfg) -> None:
    output = Path(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        # Else --resume would take up the earlier run, or its results, if this one dies early, and
        # with its weights and without its stages it would make other stages of them.
        for name in ("last_checkpoint", INITIAL_WEIGHTS):
            (output / name).unlink(missing_ok=True)
        for folder in (output / "inference", output / "stages"):
            if folder.exists():
                logger.warning("removing %s of an earlier run (no --resume)", folder)
                remove_artefact(folder)
    comm.synchronize()
