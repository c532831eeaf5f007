"""What all trainers share: optimizer, random numbers, augmentation, the mapper of pairs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.data import transforms as T
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    hooks,
)
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data.augmentation import RandomCropAroundBoxes
from ..data.crops import build_query_geometry
from ..data.pair_mapper import PairMapper, VectorTable
from ..structures import Query, SamplePool
from ..utils.checkpoints import SafeCheckpointer
from .accumulation import AccumulatingTrainer, seed_torch
from .checkpoint import AtomicPathManager, FinalCheckpointer

OPTIMIZERS = ("SGD", "AdamW")


class SeedHook(HookBase):
    """Seeds torch before each iteration from the iteration alone, so that a resumed run samples
    the same anchors and RoIs as an undisturbed one."""

    def __init__(self, seed: int):
        self._seed = seed

    def before_step(self) -> None:
        seed_torch(self._seed, self.trainer.iter)


class StreamTrainer(DefaultTrainer):
    """DefaultTrainer on a stream that is a function of configuration and SEED.

    A subclass gives the trainer its loader; killed anywhere and resumed, it draws the same items
    and the same random numbers as an undisturbed run. Several processes may train on a CPU, too.
    """

    def __init__(self, cfg):
        """
        Args:
            cfg: frozen.
        """
        # Not DefaultTrainer's: it gives each process the number of a GPU, which a CPU has not.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        model = shared_model(model)
        self._trainer = self.build_stepper(cfg, model, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.path_manager = AtomicPathManager()
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @property
    def unwrapped_model(self) -> Any:
        """The model without DistributedDataParallel."""
        model = self.model
        return model.module if isinstance(model, DistributedDataParallel) else model

    @property
    def log_period(self) -> int:
        """Iterations between two lines of the log."""
        return self.cfg.SPIL.LOG_PERIOD

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_stepper(
        cls, cfg, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> SimpleTrainer:
        """What makes one step; its loader needs what is not in the configuration, and comes later.

        Args:
            cfg: scaled to the number of processes.
            model: of `shared_model`.
            optimizer: of its parameters.
        """
        trainer = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        return trainer(model, [], optimizer)

    def build_hooks(self) -> list[HookBase | None]:
        own: list[HookBase | None] = [
            SeedHook(self.cfg.SEED),
            hooks.IterationTimer(),
            hooks.LRScheduler(),
        ]
        if comm.is_main_process():
            own += [
                FinalCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD),
                hooks.PeriodicWriter(self.build_writers(), period=self.log_period),
            ]
        return own


def shared_model(model: nn.Module) -> nn.Module:
    """The model; with several processes, one whose gradients are means over them."""
    if comm.get_world_size() == 1:
        return model
    on_cpu = next(model.parameters()).device.type == "cpu"
    return DistributedDataParallel(
        model,
        device_ids=None if on_cpu else [comm.get_local_rank()],
        broadcast_buffers=False,
    )


class LocalizerTrainer(StreamTrainer):
    """StreamTrainer of a QueryRCNN.

    A batch goes through the model in parts where SOLVER.ACCUMULATE says so, and with
    SOLVER.AMP.ENABLED in bfloat16, whose range is float32's: losses need no scale. A process with
    n parts samples what n processes sample: the training is the same.
    """

    def __init__(self, cfg):
        """
        Args:
            cfg: frozen.

        Raises:
            ValueError: SOLVER.ACCUMULATE does not divide a process's share of a batch.
        """
        _check_accumulation(cfg)
        super().__init__(cfg)

    @classmethod
    def build_stepper(
        cls, cfg, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> SimpleTrainer:
        return AccumulatingTrainer(
            model,
            [],
            optimizer,
            cfg.SOLVER.ACCUMULATE,
            cfg.SPIL.BOX_NORMALIZER,
            seed=cfg.SEED,
            precision=torch.bfloat16 if cfg.SOLVER.AMP.ENABLED else torch.float32,
        )


def _check_accumulation(cfg) -> None:
    parts = cfg.SOLVER.ACCUMULATE
    share = cfg.SOLVER.IMS_PER_BATCH // (cfg.SOLVER.REFERENCE_WORLD_SIZE or comm.get_world_size())
    if parts < 1 or share % parts:
        raise ValueError(
            f"SOLVER.ACCUMULATE is {parts}: use a divisor of the {share} items that a process "
            "takes of SOLVER.IMS_PER_BATCH"
        )


def build_optimizer(
    cfg, model: nn.Module, lr_factor: Callable[[str], float] | None = None
) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER with Detectron2's groups of parameters and gradient clipping.

    Args:
        cfg: with the keys of SOLVER.
        model: whose parameters are trained.
        lr_factor: name of a parameter -> factor of its learning rate.

    Raises:
        ValueError: for another optimizer than `OPTIMIZERS`.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}: use one of {OPTIMIZERS}")
    if solver.OPTIMIZER == "AdamW":
        groups = get_default_optimizer_params(
            model, base_lr=solver.BASE_LR, lr_factor_func=lr_factor
        )
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return optimizer(groups, solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lr_factor,
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.SGD)(
        groups,
        solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


def build_augmentations(cfg) -> list[T.Augmentation]:
    """Of the gallery picture in training; the flip is the mapper's, since crops share it."""
    augmentations: list[T.Augmentation] = []
    if cfg.INPUT.CROP_AROUND_BOXES > 0:
        augmentations.append(RandomCropAroundBoxes(cfg.INPUT.CROP_AROUND_BOXES))
    augmentations.append(
        T.ResizeShortestEdge(
            cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        )
    )
    if cfg.INPUT.COLOR_JITTER > 0:
        low, high = 1 - cfg.INPUT.COLOR_JITTER, 1 + cfg.INPUT.COLOR_JITTER
        augmentations += [
            T.RandomBrightness(low, high),
            T.RandomContrast(low, high),
            T.RandomSaturation(low, high),
        ]
    return augmentations


def build_pair_mapper(
    cfg,
    pool: SamplePool,
    gallery: Sequence[dict],
    queries: Sequence[Query],
    vectors: VectorTable | None,
) -> PairMapper:
    """From a drawn pair to a training item, as a configuration says.

    Args:
        cfg: keys of INPUT, MODEL and COATTENTION.
        pool: that pairs are drawn from.
        gallery, queries: of the dataset.
        vectors: kernels of a frozen backbone, or None.
    """
    return PairMapper(
        pool,
        {int(one["image_id"]): one for one in gallery},
        {one.id: one for one in queries},
        augmentations=build_augmentations(cfg),
        crop=build_query_geometry(cfg),
        image_format=cfg.INPUT.FORMAT,
        masks=cfg.MODEL.MASK_ON,
        vectors=vectors,
        flip_probability=0.0 if cfg.INPUT.RANDOM_FLIP == "none" else 0.5,
        ignore_extras=cfg.COATTENTION.EXTRAS == "ignore",
    )
