"""The ranker through `tools/train_net.py`: train, finish, evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..programs import ROOT, trainer_of

INSTANT = ROOT / "configs" / "quick_schedules" / "ranker_tiny_instant_test.yaml"


@pytest.fixture(scope="module")
def train_ranker(datasets_root) -> Callable[..., dict]:
    """(output folder, *arguments) -> the summaries of the tool."""
    return trainer_of(INSTANT)


@pytest.fixture(scope="module")
def trained(train_ranker, tmp_path_factory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("ranker")
    return output, train_ranker(output, "DATASETS.TEST", "('ins_mini','ins_mini_two')")


def test_training_writes_weights_and_metrics(trained) -> None:
    output, summaries = trained
    assert list(summaries) == ["ins_mini", "ins_mini_two"]
    assert json.loads((output / "summary.json").read_text()) == summaries
    assert (output / "ranker.pth").is_file()
    logged: dict = {}
    for line in (output / "metrics.json").read_text().splitlines():
        logged.update(json.loads(line))
    assert {"loss_softmax", "loss_triplet", "lr"} <= set(logged)


def test_a_finished_training_resumes_to_its_metrics(trained, train_ranker) -> None:
    output, summaries = trained
    again = train_ranker(output, "--resume", "DATASETS.TEST", "('ins_mini','ins_mini_two')")
    assert again == summaries


def test_eval_only_judges_given_weights(trained, train_ranker, tmp_path) -> None:
    output, summaries = trained
    weights = str(output / "ranker.pth")
    found = train_ranker(tmp_path, "--eval-only", "MODEL.WEIGHTS", weights)
    assert found == {"ins_mini": pytest.approx(summaries["ins_mini"])}
