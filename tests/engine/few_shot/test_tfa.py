"""The baseline in TFA's manner: base training, fine-tuning, evaluation, kill and resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from spil_d2 import get_cfg
from spil_d2.engine.few_shot.task import with_keys
from spil_d2.engine.few_shot.tfa import (
    WEIGHTS,
    DetectorTrainer,
    RenumberedClasses,
    class_places,
    detector_config,
    train_tfa,
    transfer_weights,
)

from ...programs import restored_loggers
from .conftest import INSTANT, NAME

PREDICTOR = "roi_heads.box_predictor."
TFA = (
    *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.PROPOSAL_GENERATOR.NAME", "RPN"),
    *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.RPN.CONV_DIMS", [16]),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False, "SOLVER.MAX_ITER", 4),
    *("FEW_SHOT.TFA.FINETUNE_OPTS", ["SOLVER.MAX_ITER", 3], "SOLVER.CHECKPOINT_PERIOD", 1),
)


def _config(step: str, output: Path, *changes):
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.merge_from_list([*TFA, "MODEL.BF16", "off", "FEW_SHOT.STEP", step])
    cfg.merge_from_list(["OUTPUT_DIR", str(output), *changes])
    cfg.freeze()
    return cfg


def _run(step: str, output: Path, *changes, resume: bool = False) -> dict:
    with restored_loggers():
        return train_tfa(_config(step, output, *changes), resume)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / WEIGHTS, weights_only=True)


@pytest.fixture(scope="module")
def base(datasets_root, tmp_path_factory) -> tuple[Path, dict]:
    """Folder and results of a base training."""
    output = tmp_path_factory.mktemp("tfa_base")
    return output, _run("tfa_base", output)


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory) -> tuple[Path, dict]:
    """Folder and results of a fine-tuning."""
    output = tmp_path_factory.mktemp("tfa_tuned")
    return output, _run("tfa_finetune", output, "MODEL.WEIGHTS", str(base[0] / WEIGHTS))


def test_the_base_step_knows_base_classes_alone(base) -> None:
    output, results = base
    (found,) = results.values()
    assert list(results) == [f"{NAME}_test"] and found["test_classes"] == "base"
    assert {"bAP", "nAP", "AP", "nAP50", "nAP75"} <= set(found["metrics"])
    state = _weights(output)
    assert state[PREDICTOR + "cls_score.weight"].shape[0] == 3 + 1
    assert state[PREDICTOR + "bbox_pred.weight"].shape[0] == 4 * 3
    written = json.loads((output / "inference" / f"{NAME}_test" / "few_shot.json").read_text())
    assert written == found


def test_detections_of_the_base_step_carry_the_datasets_ids(base) -> None:
    output, _ = base
    path = output / "inference" / f"{NAME}_test" / "coco_instances_results.json"
    seen = {one["category_id"] for one in json.loads(path.read_text())}
    assert seen and seen <= set(MetadataCatalog.get(f"{NAME}_test").base_ids)


def test_fine_tuning_changes_the_predictor_alone(base, tuned) -> None:
    before, after = _weights(base[0]), _weights(tuned[0])
    for name, value in after.items():
        if name.startswith(PREDICTOR):
            assert value.shape[0] in (5 + 1, 4 * 5), name
        else:
            assert torch.equal(value, before[name]), name
    places = class_places(f"{NAME}_base_train", f"{NAME}_2shot_seed0_shots")
    rows = after[PREDICTOR + "cls_score.weight"][places]
    drawn = before[PREDICTOR + "cls_score.weight"][:-1]
    # Trained a little, from where they were.
    assert not torch.equal(rows, drawn)
    assert (rows - drawn).abs().max() < 0.05


def test_base_classes_keep_their_weights_and_novel_ones_are_drawn(base) -> None:
    cfg = _config("tfa_finetune", base[0])
    model = build_model(detector_config(cfg, f"{NAME}_2shot_seed0_shots"))
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    places = class_places(f"{NAME}_base_train", f"{NAME}_2shot_seed0_shots")
    transfer_weights(model, base[0] / WEIGHTS, places)
    given, own = _weights(base[0]), model.state_dict()
    novel = sorted(set(range(5)) - set(places))
    for name in ("cls_score.weight", "cls_score.bias"):
        one = own[PREDICTOR + name]
        for row, place in enumerate(places):
            assert torch.equal(one[place], given[PREDICTOR + name][row])
        assert torch.equal(one[-1], given[PREDICTOR + name][-1])
        assert torch.equal(one[novel], fresh[PREDICTOR + name][novel])
    boxes = own[PREDICTOR + "bbox_pred.weight"].unflatten(0, (5, 4))
    for row, place in enumerate(places):
        expected = given[PREDICTOR + "bbox_pred.weight"].unflatten(0, (3, 4))[row]
        assert torch.equal(boxes[place], expected)
    assert torch.equal(own["roi_heads.box_head.fc1.weight"], given["roi_heads.box_head.fc1.weight"])


def test_weights_of_another_network_are_refused(base) -> None:
    cfg = _config("tfa_finetune", base[0], "MODEL.ROI_BOX_HEAD.FC_DIM", 16)
    model = build_model(detector_config(cfg, f"{NAME}_2shot_seed0_shots"))
    with pytest.raises(ValueError, match="the shape .* for roi_heads.box_head.fc1.weight"):
        transfer_weights(model, base[0] / WEIGHTS, (0, 1, 2))


def test_killed_and_resumed_it_ends_with_the_same_weights(base, tmp_path) -> None:
    class Killed(Exception):
        pass

    undisturbed = DetectorTrainer.run_step

    def dying(self) -> None:
        if self.iter == 3:
            raise Killed
        undisturbed(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectorTrainer, "run_step", dying)
        with pytest.raises(Killed):
            _run("tfa_base", tmp_path)
    assert not (tmp_path / WEIGHTS).exists()
    results = _run("tfa_base", tmp_path, resume=True)
    expected = _weights(base[0])
    for name, value in _weights(tmp_path).items():
        assert torch.equal(value, expected[name]), name
    assert results[f"{NAME}_test"]["metrics"] == base[1][f"{NAME}_test"]["metrics"]


def test_a_finished_run_is_only_read(tuned, base) -> None:
    output, results = tuned
    stamp = (output / WEIGHTS).stat().st_mtime_ns
    again = _run("tfa_finetune", output, "MODEL.WEIGHTS", str(base[0] / WEIGHTS), resume=True)
    assert again == results and (output / WEIGHTS).stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="other data or keys"):
        changes = ("MODEL.WEIGHTS", str(base[0] / WEIGHTS), "FEW_SHOT.SEED", 1)
        _run("tfa_finetune", output, *changes, resume=True)


def test_both_steps_in_one_run_with_a_cosine_classifier(base, tmp_path, train_net) -> None:
    options = [str(one) for one in TFA]
    results = train_net(
        tmp_path,
        *("FEW_SHOT.STEP", "tfa", *options, "MODEL.BF16", "off"),
        *("FEW_SHOT.TFA.COSINE", "True"),
    )
    assert results[f"{NAME}_test"]["test_classes"] == "all"
    state = _weights(tmp_path / "2shot_seed0")
    assert PREDICTOR + "cls_score.bias" not in state
    for name, value in _weights(tmp_path / "base").items():
        assert torch.equal(value, _weights(base[0])[name]), name


@pytest.mark.parametrize(
    ("step", "changes", "message"),
    [
        ("novel", (), "FEW_SHOT.STEP is 'novel'"),
        ("tfa_finetune", ("MODEL.WEIGHTS", "nowhere.pth"), "'nowhere.pth'.*detector.pth"),
        ("tfa_base", ("MODEL.META_ARCHITECTURE", "QueryRCNN"), "not 'QueryRCNN'"),
        ("tfa_base", ("SEED", -1), "SEED must be"),
    ],
)
def test_what_does_not_fit_is_refused(datasets_root, tmp_path, step, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        _run(step, tmp_path, *changes)


def test_classes_are_renumbered() -> None:
    class Detector(nn.Module):
        def forward(self, batched_inputs: list[dict]) -> list[dict]:
            found = Instances((9, 9))
            found.pred_boxes = Boxes(torch.zeros(3, 4))
            found.pred_classes = torch.tensor([1, 0, 1])
            return [{"instances": found}]

    (answer,) = RenumberedClasses(Detector(), [4, 2])([{}])
    assert answer["instances"].pred_classes.tolist() == [2, 4, 2]


def test_the_configuration_file_builds() -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(Path(INSTANT).parents[1] / "FewShot" / "tfa_tiny_groceries25.yaml"))
    cfg.merge_from_list(["MODEL.EFFICIENTNET.VARIANT", "lite0"])
    model = build_model(with_keys(cfg, MODEL__ROI_HEADS__NUM_CLASSES=15))
    assert type(model).__name__ == "GeneralizedRCNN"
    assert not any(p.requires_grad for p in model.backbone.parameters())
