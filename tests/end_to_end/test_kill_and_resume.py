"""A run that is killed again and again ends as the undisturbed one does, bit for bit.

The killed one is in other processes, with another PYTHONHASHSEED, with --deterministic and with two
processes that load its data: nothing of that may change anything either.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spil_d2.engine.trainer import SpilTrainer
from spil_d2.structures import RankLists, SamplePool

from ..programs import ForkedPrograms
from .conftest import INSTANT

# What has just appeared when the process is killed: while the second stage is prepared, and inside
# it. tests/faults kills at random, also where stages start anew.
KILL_POINTS = ["model_0000003.pth", "model_0000005.pth"]
OTHERWISE = ("--deterministic", "DATALOADER.NUM_WORKERS", "2")
# Stages that start anew; refinement has no part in it and takes most of the time.
RESTART = ("SPIL.STAGE_INIT", "restart", "SPIL.REFINE_BOXES", "none", "TEST.REFINE_BOXES", "none")


def run(programs: ForkedPrograms, output: Path, kill_at: str | None, *arguments: str) -> int:
    """Run the schedule in `output`, until it ends or `kill_at` appears; returns its status."""
    words = ["--config-file", str(INSTANT), *arguments, "OUTPUT_DIR", str(output)]
    pid = programs.start(["tools/train_net.py", *words])
    if kill_at is not None:
        deadline = time.monotonic() + 60
        while not (output / kill_at).exists():
            assert time.monotonic() < deadline, f"{kill_at} has not appeared"
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
    return programs.status()


@pytest.fixture(scope="module")
def killed(datasets_root, tmp_path_factory) -> Path:
    """Output of a run that was killed at every point and resumed each time."""
    folder = tmp_path_factory.mktemp("killed")
    log, output = folder / "log.txt", folder / "output"
    with ForkedPrograms(datasets_root, log, hash_seed=20210705) as programs:
        for kill_at in KILL_POINTS:
            status = run(programs, output, kill_at, "--resume", *OTHERWISE)
            assert status == signal.SIGKILL, (kill_at, status, log.read_text()[-3000:])
        assert run(programs, output, None, "--resume", *OTHERWISE) == 0, log.read_text()[-3000:]
    return output


def test_the_weights_are_equal(undisturbed, killed) -> None:
    one, other = (
        torch.load(folder / "model_final.pth", weights_only=False)
        for folder in (undisturbed[0], killed)
    )
    assert one["iteration"] == other["iteration"] == 7
    assert one["model"].keys() == other["model"].keys()
    different = [k for k, v in one["model"].items() if not torch.equal(v, other["model"][k])]
    assert not different, f"{len(different)} of {len(one['model'])} differ: {different[:5]}"


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_pools_are_equal(undisturbed, killed, stage: int) -> None:
    one, other = (
        SamplePool.load(folder / "stages" / f"{stage:02d}" / "pool.json.gz")
        for folder in (undisturbed[0], killed)
    )
    assert one == other


def test_the_final_rank_lists_are_equal(undisturbed, killed) -> None:
    one, other = (
        RankLists.load(folder / "inference" / "ins_mini" / "final_rank_lists.npz")
        for folder in (undisturbed[0], killed)
    )
    assert list(one) == list(other)
    for query_id in one:
        for name in ("image_ids", "boxes", "similarities", "probabilities"):
            a, b = getattr(one[query_id], name), getattr(other[query_id], name)
            np.testing.assert_array_equal(a, b, f"{name} of query {query_id}")


@pytest.fixture(scope="module")
def restarting(train_net, tmp_path_factory) -> tuple[Path, list[dict[str, torch.Tensor]]]:
    """Output of a whole run whose stages start anew, and the weights that each started with."""
    output = tmp_path_factory.mktemp("restarting")
    started = []
    enter = SpilTrainer.enter_stage

    def watch(trainer: SpilTrainer, stage: int, iteration: int) -> None:
        enter(trainer, stage, iteration)
        weights = trainer.unwrapped_model.state_dict()
        started.append({name: value.clone() for name, value in weights.items()})
        assert stage == 2 or not trainer.optimizer.state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpilTrainer, "enter_stage", watch)
        train_net(output, *RESTART)
    return output, started


def test_each_stage_starts_with_the_initial_weights(restarting) -> None:
    output, (first, second, end) = restarting
    kept = torch.load(output / "model_initial.pth", weights_only=True)
    assert kept.keys() == first.keys() == second.keys()
    for name, value in kept.items():
        assert torch.equal(value, first[name]) and torch.equal(value, second[name]), name
    assert any(not torch.equal(value, end[name]) for name, value in kept.items())


def test_resuming_without_the_initial_weights_says_so(restarting, train_net, tmp_path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(restarting[0], output)
    (output / "model_initial.pth").unlink()
    shutil.rmtree(output / "inference")
    with pytest.raises(FileNotFoundError, match="model_initial.pth is missing.*STAGE_INIT"):
        train_net(output, "--resume", *RESTART)


def test_nothing_half_written_is_left(killed) -> None:
    assert not list((killed / "stages").glob(".tmp-*"))
    assert (killed / "report.html").exists() and (killed / "summary.json").exists()
