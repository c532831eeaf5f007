"""A detector from a folder of shots and a folder of pictures, by the command and by the demo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine.defaults import DefaultPredictor
from PIL import Image
from typer.testing import CliRunner

from spil_d2 import get_cfg
from spil_d2.cli import app
from spil_d2.engine.few_shot import own_classes
from spil_d2.engine.few_shot.own_shots import load_task, publish_task, read_shots
from spil_d2.utils.artifacts import read_manifest

from ...programs import ROOT, load_program, restored_loggers
from .conftest import INSTANT, NOVEL, SIDE, draw_object


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Shots of two classes as pictures of their own, and unlabeled pictures of several kinds."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    unlabeled = root / "pictures" / "below"
    unlabeled.mkdir(parents=True)
    for i in range(8):
        image = rng.integers(70, 130, (SIDE, SIDE, 3)).astype(np.uint8)
        draw_object(image, 3 + i % 2, 20 + 5 * i, 40)
        suffix = ("png", "webp", "bmp", "jpg")[i % 4]
        Image.fromarray(image).save(unlabeled / f"{i}.{suffix}")
    (unlabeled / "broken.jpg").write_bytes(b"no picture")
    for number, name in enumerate(NOVEL, 3):
        place = root / "shots" / name
        place.mkdir(parents=True)
        for i in range(2):
            image = rng.integers(70, 130, (48, 48, 3)).astype(np.uint8)
            draw_object(image, number, 4, 4)
            Image.fromarray(image).save(place / f"{i}.png")
    return root / "shots", root / "pictures"


def run(*arguments: object):
    with restored_loggers():
        return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory) -> tuple[Path, Path, str]:
    """The detector's directory, the pictures, and what the command said."""
    root = tmp_path_factory.mktemp("made")
    out, pictures = root / "things.detector", root / "looked_at"
    arguments = ["fewshot", *folders, "--out", out, "--config-file", INSTANT, "--iterations", 10]
    died = own_classes.export_detector

    def die(*_) -> None:
        raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_classes, "export_detector", die)
        result = run(*arguments)
        assert result.exit_code == 1 and "Error: killed" in result.stderr
        assert not out.exists()
        # Gone on with: the training is not done again.
        patch.setattr(own_classes, "export_detector", died)
        patch.setattr("spil_d2.engine.pipeline.SpilTrainer", None)
        result = run(*arguments, "--images-out", pictures)
    assert result.exit_code == 0, result.output
    return out, pictures, result.stdout


def test_the_command_leaves_a_model_directory_alone(made) -> None:
    out, pictures, said = made
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml",
        "manifest.json",
        "model_final.pth",
    ]
    assert str(out) in said and not list(out.parent.glob(".*"))
    manifest = read_manifest(out)
    assert manifest["classes"] == sorted(NOVEL)
    assert (manifest["shots"], manifest["unlabeled"]) == (4, 8)
    assert len(list((pictures / "detections").iterdir())) == 8
    assert len(list((pictures / "rank_lists").iterdir())) == 2


def test_the_default_predictor_runs_it(made) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(made[0] / "config.yaml"))
    assert cfg.MODEL.META_ARCHITECTURE == "ClassRCNN"
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    found = DefaultPredictor(cfg)(image)["instances"]
    assert found.image_size == (SIDE, SIDE) and set(found.pred_classes.tolist()) <= {0, 1}
    state = torch.load(made[0] / "model_final.pth", weights_only=True)
    assert state["kernels"].abs().sum() > 0 and state["class_ids"].tolist() == [0, 1]


def test_the_demo_draws_pictures_and_video(made, tmp_path) -> None:
    moved = tmp_path / "moved.detector"
    shutil.copytree(made[0], moved)
    demo = load_program(ROOT / "demo" / "demo.py")
    picture, video = tmp_path / "a.png", tmp_path / "in.avi"
    image = np.full((96, SIDE, 3), 100, np.uint8)
    draw_object(image, 3, 40, 30)
    cv2.imwrite(str(picture), image)
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (SIDE, 96))
    for _ in range(5):
        writer.write(image)
    writer.release()
    common = ["--config-file", str(moved / "config.yaml"), "--confidence-threshold", "0.0"]
    drawn = tmp_path / "drawn" / "a.png"
    with restored_loggers():
        assert demo.main([*common, "--input", str(picture), "--output", str(drawn)]) == 0
        both = [str(picture), str(picture)]
        assert demo.main([*common, "--input", *both, "--output", str(tmp_path / "all")]) == 0
        out = tmp_path / "out.avi"
        assert demo.main([*common, "--video-input", str(video), "--output", str(out)]) == 0
        gone = ["--input", str(tmp_path / "none*.png"), "--output", str(drawn)]
        assert demo.main([*common, *gone]) == 1
    result = cv2.imread(str(drawn))
    assert result.shape[1] >= SIDE and (tmp_path / "all" / "a.png").is_file()
    assert not np.array_equal(cv2.resize(result, (SIDE, 96)), image)
    capture = cv2.VideoCapture(str(out))
    assert int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    capture.release()


def test_shots_of_a_coco_file(folders, tmp_path) -> None:
    picture = folders[1] / "below" / "0.png"
    shutil.copy(picture, tmp_path / "0.png")
    content = {
        "images": [{"id": 1, "file_name": "0.png", "width": SIDE, "height": SIDE}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [20, 40, 40, 40]}],
        "categories": [{"id": 5, "name": "mug"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    shots = read_shots(tmp_path)
    assert [(one.name, one.box) for one in shots] == [("mug", (20, 40, 60, 80))]
    publish_task(shots, folders[1], tmp_path / "task", skipped=tmp_path / "none")
    task = load_task(tmp_path / "task")
    (query,) = task.queries
    assert query.category_id == 0 and query.primary.box == (20, 40, 60, 80)
    assert task.classes == ("mug",) and len(task.gallery) == 8
    assert set(task.sources.values()) == {
        f"below/{i}.{suffix}" for i, suffix in enumerate(("png", "webp", "bmp", "jpg") * 2)
    }


def test_what_cannot_work_ends_with_a_line(folders, tmp_path) -> None:
    shots, unlabeled = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        ((empty, unlabeled, "--out", tmp_path / "a"), "holds no shots"),
        ((shots, empty, "--out", tmp_path / "b"), "holds no picture that can be read"),
        ((shots, unlabeled, "--out", empty), "is there already"),
    ):
        result = run("fewshot", *arguments, "--config-file", INSTANT)
        assert result.exit_code == 1 and message in result.stderr, result.output
    assert run("fewshot", shots, unlabeled).exit_code == 2
    assert "Example" in run("fewshot", "--help").stdout
