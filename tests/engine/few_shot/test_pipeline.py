"""Base training, stages and detection on a generated task; killed runs are gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from spil_d2.engine import pair_trainer
from spil_d2.engine.few_shot import pipeline
from spil_d2.structures import SamplePool


@pytest.fixture(scope="module")
def novel(train_net, base_weights, tmp_path_factory) -> tuple[Path, dict]:
    """Output and summaries of the step "novel" with query expansion and everything tested."""
    output = tmp_path_factory.mktemp("novel")
    arguments = ["FEW_SHOT.STEP", "novel", "MODEL.WEIGHTS", str(base_weights)]
    arguments += ["FEW_SHOT.TEST_CLASSES", "all", "FEW_SHOT.GAMMA", "-1.0", *_EXPANSION]
    return output, train_net(output, *arguments)


_EXPANSION = (
    "FEW_SHOT.QE.ENABLED True FEW_SHOT.QE.AFTER_STAGE 0 FEW_SHOT.QE.NUM_INSTANCES 1 "
    "FEW_SHOT.QE.THRESHOLD 0.02 FEW_SHOT.QE.TOP_K 14"
).split()


def test_a_base_training_that_died_ends_with_the_same_weights(
    train_net, base_weights, tmp_path
) -> None:
    class Died(Exception):
        pass

    def die(*_) -> None:
        raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pair_trainer, "save_weights", die)
        with pytest.raises(Died):
            train_net(tmp_path, "FEW_SHOT.STEP", "base")
    # As if the kill had come after the first of two checkpoints.
    (tmp_path / "model_final.pth").unlink()
    (tmp_path / "model_0000003.pth").unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    train_net(tmp_path, "--resume", "FEW_SHOT.STEP", "base")
    one, other = (
        torch.load(path, weights_only=True) for path in (base_weights, tmp_path / "localizer.pth")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_result_says_what_it_depends_on(novel) -> None:
    output, summaries = novel
    (results,) = summaries.values()
    path = output / "inference" / "fs_mini_test" / "few_shot.json"
    assert json.loads(path.read_text()) == results
    # Three base and two novel classes of two shots each.
    assert (results["shots"], results["seed"], results["shots_used"]) == (2, 0, 10)
    assert results["gamma"] in (0.0, 4.0) and results["world_size"] == 1
    assert 0 < results["expansion"] <= 4
    for name in ("AP", "bAP", "nAP", "nAP50", "nAP75"):
        assert results["metrics"][name] is not None and 0 <= results["metrics"][name] <= 100, name


def test_there_are_pictures_of_each_novel_class(novel) -> None:
    output, _ = novel
    names = ["white_bar.jpg", "yellow_cross.jpg"]
    for folder in (output / "rank_lists", output / "inference" / "fs_mini_test" / "pictures"):
        assert sorted(path.name for path in folder.iterdir()) == names


def test_all_shots_are_queries_of_known_classes(novel) -> None:
    pool = SamplePool.load(novel[0] / "stages" / "01" / "pool.json.gz")
    assert len(pool) == 4 and pool.num_targets > 0


def test_a_finished_run_is_not_run_again(novel, train_net, base_weights) -> None:
    output, summaries = novel
    arguments = ["--resume", "FEW_SHOT.STEP", "novel", "MODEL.WEIGHTS", str(base_weights)]
    arguments += ["FEW_SHOT.TEST_CLASSES", "all", "FEW_SHOT.GAMMA", "-1.0", *_EXPANSION]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_localizer", None)
        assert train_net(output, *arguments) == summaries


def test_kernels_of_the_base_weights_alone(train_net, base_weights, tmp_path) -> None:
    arguments = ["FEW_SHOT.STEP", "novel", "FEW_SHOT.SELF_TRAINING", "False"]
    arguments += ["MODEL.WEIGHTS", str(base_weights)]
    (results,) = train_net(tmp_path, *arguments).values()
    assert not (tmp_path / "stages").exists()
    assert results["gamma"] == 0.0 and results["shots_used"] == 4
    # `--eval-only` is the same.
    (judged,) = train_net(tmp_path / "judged", "--eval-only", *arguments).values()
    assert judged["metrics"] == results["metrics"]


def test_what_cannot_be_run_is_refused(train_net, tmp_path) -> None:
    with pytest.raises(ValueError, match="STEP is 'nowel': use one of"):
        train_net(tmp_path, "FEW_SHOT.STEP", "nowel")
    with pytest.raises(ValueError, match="'elsewhere', which is not registered.*'fs_mini'"):
        train_net(tmp_path, "FEW_SHOT.STEP", "base", "FEW_SHOT.DATASET", "elsewhere")
    with pytest.raises(ValueError, match="no 3 shots of seed 0.*'2shot_seed1'"):
        train_net(tmp_path, "FEW_SHOT.STEP", "base", "FEW_SHOT.SHOTS", "3")
    with pytest.raises(ValueError, match="must name a finished run"):
        train_net(tmp_path, "FEW_SHOT.TRAINED_RUN", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="the file that the step 'base' has left"):
        train_net(tmp_path, "FEW_SHOT.STEP", "novel", "FEW_SHOT.SELF_TRAINING", "False")
