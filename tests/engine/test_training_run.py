"""What a training depends on: which keys count, and initial weights by their content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from spil_d2 import get_cfg
from spil_d2.engine.training_run import begin_run, kept_keys, noted_failures
from spil_d2.utils.artifacts import fingerprint


def key_of(*changes) -> str:
    cfg = get_cfg()
    cfg.merge_from_list(list(changes))
    cfg.freeze()
    return fingerprint(kept_keys(cfg, ("MODEL", "SOLVER", "SPIL", "SEARCH", "RANKER")))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"first")
    return path


@pytest.mark.parametrize(
    "changes",
    [
        ("MODEL.DEVICE", "cuda"),
        ("MODEL.BF16", "on"),
        ("SOLVER.CHECKPOINT_PERIOD", 7),
        ("SPIL.LOG_PERIOD", 7),
        ("RANKER.LOG_PERIOD", 7),
        ("SEARCH.NUM_WORKERS", 7),
        ("MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"),
        ("INPUT.FORMAT", "RGB"),
    ],
)
def test_what_changes_no_result_does_not_count(changes) -> None:
    assert key_of(*changes) == key_of()


@pytest.mark.parametrize("changes", [("SEED", 7), ("SOLVER.BASE_LR", 0.7), ("SPIL.TAU", [0.7])])
def test_what_changes_the_result_counts(changes) -> None:
    assert key_of(*changes) != key_of()


def test_weights_count_by_their_content(weights: Path) -> None:
    first = key_of("MODEL.WEIGHTS", str(weights))
    assert first != key_of()
    moved = shutil.copy(weights, weights.with_name("moved.pth"))
    assert key_of("MODEL.WEIGHTS", str(moved)) == first
    weights.write_bytes(b"other")
    assert key_of("MODEL.WEIGHTS", str(weights)) != first


class _Trainer:
    """What `noted_failures` looks at."""

    def __init__(self, output: Path, is_finite: bool):
        self.cfg = get_cfg()
        self.cfg.OUTPUT_DIR, self.cfg.SEED = str(output), 5
        self.iter = 7
        self.model = torch.nn.Linear(2, 2)
        if not is_finite:
            self.model.weight.data[0, 0] = float("nan")


@pytest.mark.parametrize("is_finite", [True, False])
def test_a_loss_that_is_not_finite_leaves_its_batch(tmp_path: Path, is_finite: bool) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    batch = [{"file_name": "a.jpg", "box": (1.0, 2.0, 3.0, 4.0)}]
    with pytest.raises(FloatingPointError) as caught:
        with noted_failures(_Trainer(tmp_path, is_finite), lambda: batch):
            raise FloatingPointError("Loss became infinite or NaN")
    assert str(tmp_path / "nan_batch.json") in caught.value.__notes__[0]
    assert ("weights are not finite either" in caught.value.__notes__[0]) != is_finite
    assert json.loads((tmp_path / "nan_batch.json").read_text()) == {
        "iteration": 7,
        "seed": 5,
        "checkpoint": "model_0000005.pth",
        "weights_are_finite": is_finite,
        "items": [{"file_name": "a.jpg", "box": [1.0, 2.0, 3.0, 4.0]}],
    }


def test_other_failures_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        with noted_failures(_Trainer(tmp_path, True), list):
            raise RuntimeError("out of memory")
    assert not hasattr(caught.value, "__notes__") and list(tmp_path.iterdir()) == []


def test_a_run_of_something_else_is_refused_and_one_anew_forgets_its_parts(tmp_path: Path) -> None:
    def begin(made_of: str, resume: bool) -> bool:
        return begin_run(tmp_path, made_of, "result.pth", resume, parts=("initial.pth",))

    assert not begin("one", resume=True)
    for name in ("result.pth", "initial.pth", "last_checkpoint"):
        (tmp_path / name).touch()
    assert begin("one", resume=True)
    with pytest.raises(ValueError, match="fingerprint one, this one has other"):
        begin("other", resume=True)
    assert not begin("other", resume=False)
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]
