"""When which stage runs, and at which learning rate: pure functions of the iteration."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from detectron2.engine import HookBase
from fvcore.common.param_scheduler import ParamScheduler

STAGE_INITS = ("continue", "restart")
"""Weights that each later stage starts from (D13): the last stage's, or the run's initial ones."""


@dataclass(frozen=True)
class StagePlan:
    """Stages 0 .. K and their learning rates over a run.

    Attributes:
        starts: first iteration of each stage; the first is 0.
        max_iter: iterations of the run; "stage" K + 1 begins there, when training has ended.
        lr_steps: part of each stage after which the rate falls by `gamma`.
        warmup: iterations of linear warm-up at the start of each stage.
        warmup_factor: of the rate at the start of the warm-up.
        gamma: see `lr_steps`.
    """

    starts: tuple[int, ...]
    max_iter: int
    lr_steps: tuple[float, ...]
    warmup: int
    warmup_factor: float
    gamma: float

    def __post_init__(self) -> None:
        bounds = (*self.starts, self.max_iter)
        if self.starts[:1] != (0,) or any(a >= b for a, b in zip(bounds, bounds[1:])):
            raise ValueError(
                f"stages must start at 0 and hold at least one iteration each; "
                f"SPIL.STAGE_FRACTIONS of {self.max_iter} iterations give the starts {self.starts}"
            )
        if len(self.lr_steps) != len(self.starts):
            raise ValueError(
                f"SPIL.STAGE_LR_STEPS has {len(self.lr_steps)} values for {len(self.starts)} stages"
            )

    @classmethod
    def from_config(cls, cfg) -> StagePlan:
        num_stages, fractions = cfg.SPIL.NUM_STAGES, list(cfg.SPIL.STAGE_FRACTIONS)
        if len(fractions) < num_stages or len(cfg.SPIL.STAGE_LR_STEPS) < num_stages:
            raise ValueError(
                f"SPIL.NUM_STAGES is {num_stages}, but SPIL.STAGE_FRACTIONS has {len(fractions)} "
                f"and SPIL.STAGE_LR_STEPS {len(cfg.SPIL.STAGE_LR_STEPS)} values"
            )
        total = sum(fractions[:num_stages])
        max_iter = cfg.SOLVER.MAX_ITER
        starts = [round(max_iter * sum(fractions[:k]) / total) for k in range(num_stages)]
        return cls(
            starts=tuple(starts),
            max_iter=max_iter,
            lr_steps=tuple(cfg.SPIL.STAGE_LR_STEPS[:num_stages]),
            warmup=cfg.SOLVER.WARMUP_ITERS,
            warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
            gamma=cfg.SOLVER.GAMMA,
        )

    @property
    def num_stages(self) -> int:
        """K + 1, Stage-0 included."""
        return len(self.starts)

    def stage_of(self, iteration: int) -> int:
        """The stage that an iteration belongs to; K + 1 when training has ended."""
        return bisect.bisect_right((*self.starts, self.max_iter), iteration) - 1

    def is_start(self, iteration: int) -> bool:
        """Whether a stage begins with this iteration, or training has just ended."""
        return iteration in self.starts or iteration == self.max_iter

    def lr_factor(self, iteration: int) -> float:
        """Multiplier of the base learning rate: warm-up, plateau, one step down in each stage."""
        stage = min(self.stage_of(iteration), self.num_stages - 1)
        start = self.starts[stage]
        length = (*self.starts, self.max_iter)[stage + 1] - start
        done = iteration - start
        factor = self.gamma if done >= self.lr_steps[stage] * length else 1.0
        if done < self.warmup:
            ramp = done / self.warmup
            factor *= self.warmup_factor * (1 - ramp) + ramp
        return factor


class StageSchedule(ParamScheduler):
    """The plan as fvcore's scheduler of the part of training that is done."""

    def __init__(self, plan: StagePlan):
        self._plan = plan

    def __call__(self, where: float) -> float:
        # `where` is iteration / max_iter; round undoes the division.
        return self._plan.lr_factor(round(where * self._plan.max_iter))


class StageHook(HookBase):
    """Enters a stage at its first iteration; holds no data, so there is nothing to restore.

    Must be enabled in all processes or in none, after the PeriodicCheckpointer and before writers.
    """

    def __init__(self, plan: StagePlan, enter):
        """
        Args:
            plan: when stages start.
            enter: called with (stage, iteration) by all processes: at the start of training, at
                each stage's start and, with stage K + 1, after the last iteration.
        """
        self._plan = plan
        self._enter = enter

    def before_train(self) -> None:
        start = self.trainer.start_iter
        self._enter(self._plan.stage_of(start), start)

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if not self._plan.is_start(following):
            return
        if following < self._plan.max_iter:
            # A run killed while the next stage is prepared resumes here, with these weights.
            self.trainer.checkpointer.save(
                f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter
            )
        self._enter(self._plan.stage_of(following), following)
