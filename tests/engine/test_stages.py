"""The plan of stages against counting by hand."""

from __future__ import annotations

import pytest

from spil_d2 import get_cfg
from spil_d2.engine.stages import StageHook, StagePlan, StageSchedule


def _plan(**changes) -> StagePlan:
    given = {
        "starts": (0, 15, 25),
        "max_iter": 35,
        "lr_steps": (0.8, 0.7, 0.7),
        "warmup": 0,
        "warmup_factor": 0.1,
        "gamma": 0.1,
        **changes,
    }
    return StagePlan(**given)


def test_the_papers_schedule() -> None:
    """45k iterations: 15k + 3 x 10k, steps after 12k and 7k of them (Section 1.7)."""
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = 45000
    plan = StagePlan.from_config(cfg)
    assert plan.starts == (0, 15000, 25000, 35000)
    schedule = StageSchedule(StagePlan(plan.starts, 45000, plan.lr_steps, 0, 0.1, 0.1))
    drops = [i for i in range(1, 45000) if schedule(i / 45000) < schedule((i - 1) / 45000)]
    assert drops == [12000, 22000, 32000, 42000]


def test_a_stage_is_a_function_of_the_iteration() -> None:
    plan = _plan()
    assert [plan.stage_of(i) for i in (0, 14, 15, 24, 25, 34, 35)] == [0, 0, 1, 1, 2, 2, 3]
    assert [i for i in range(36) if plan.is_start(i)] == [0, 15, 25, 35]


def test_each_stage_warms_up() -> None:
    plan = _plan(warmup=5)
    assert plan.lr_factor(0) == plan.lr_factor(15) == pytest.approx(0.1)
    assert plan.lr_factor(5) == plan.lr_factor(20) == 1.0
    assert plan.lr_factor(16) == pytest.approx(0.1 + 0.9 / 5)


@pytest.mark.parametrize(
    "changes", [{"starts": (0, 15, 15)}, {"max_iter": 25}, {"starts": (1, 15, 25)}]
)
def test_an_empty_stage_is_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="at least one iteration"):
        _plan(**changes)


class _Checkpointer:
    def __init__(self) -> None:
        self.saved: list[str] = []

    def save(self, name: str, **_: object) -> None:
        self.saved.append(name)


class _Trainer:
    def __init__(self, start: int) -> None:
        self.start_iter = self.iter = start
        self.checkpointer = _Checkpointer()


@pytest.mark.parametrize(
    ("start", "entered"),
    [(0, [(0, 0), (1, 15), (2, 25), (3, 35)]), (20, [(1, 20), (2, 25), (3, 35)]), (35, [(3, 35)])],
)
def test_the_hook_enters_each_stage_once_and_again_after_a_resume(
    start: int, entered: list
) -> None:
    calls: list[tuple[int, int]] = []
    plan = _plan()
    hook = StageHook(plan, lambda stage, iteration: calls.append((stage, iteration)))
    hook.trainer = trainer = _Trainer(start)
    hook.before_train()
    for trainer.iter in range(start, plan.max_iter):
        hook.after_step()
    assert calls == entered
    boundaries = [i - 1 for i in (15, 25) if i > start]
    assert trainer.checkpointer.saved == [f"model_{i:07d}" for i in boundaries]
