"""What a training depends on: which keys count, and initial weights by their content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spil_d2 import get_cfg
from spil_d2.engine.training_run import kept_keys
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
