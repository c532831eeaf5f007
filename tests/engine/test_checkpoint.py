"""Checkpoints of a run that was killed between its last ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from spil_d2.engine.checkpoint import AtomicPathManager, FinalCheckpointer


def resumed(folder: Path, start: int) -> None:
    """What happens before the first step of a run of four iterations."""
    checkpointer = DetectionCheckpointer(nn.Linear(2, 2), str(folder))
    checkpointer.path_manager = AtomicPathManager()
    hook = FinalCheckpointer(checkpointer, 2)
    hook.trainer = SimpleNamespace(start_iter=start, max_iter=4)
    hook.before_train()


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Output of a run that was killed when iteration 3, the last, was in a checkpoint."""
    checkpointer = DetectionCheckpointer(nn.Linear(2, 2), str(tmp_path))
    checkpointer.save("model_0000003", iteration=3)
    return tmp_path


def test_a_run_killed_before_its_final_weights_gets_them(killed: Path) -> None:
    resumed(killed, 4)
    assert (killed / "last_checkpoint").read_text() == "model_final.pth"
    one, other = (torch.load(killed / f"model_{name}.pth") for name in ("0000003", "final"))
    assert one["iteration"] == other["iteration"] == 3
    assert torch.equal(one["model"]["weight"], other["model"]["weight"])


def test_a_run_that_goes_on_does_not(killed: Path) -> None:
    resumed(killed, 2)
    assert not (killed / "model_final.pth").exists()


def test_nor_one_that_begins(tmp_path: Path) -> None:
    resumed(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
