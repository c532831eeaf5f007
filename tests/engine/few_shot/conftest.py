"""A generated few-shot task in the layout of the published ones, and runs of its steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from spil_d2.data.datasets.few_shot_builtin import register_few_shot_builtin
from spil_d2.data.datasets.few_shot_prepare import write_shot_files

from ...programs import ROOT, one_thread, trainer_of

INSTANT = ROOT / "configs/quick_schedules/few_shot_tiny_instant_test.yaml"
NAME = "fs_mini"
CLASSES = ("red disc", "green square", "blue ring", "yellow cross", "white bar")
NOVEL = ("yellow cross", "white bar")
SIDE, OBJECT = 128, 40


def draw_object(image: np.ndarray, number: int, x: int, y: int) -> None:
    """Class `number` in the square of OBJECT pixels at (x, y), on an RGB picture."""
    half = OBJECT // 2
    centre, last = (x + half, y + half), (x + OBJECT - 1, y + OBJECT - 1)
    if number == 0:
        cv2.circle(image, centre, half - 1, (220, 30, 30), -1)
    elif number == 1:
        cv2.rectangle(image, (x, y), last, (30, 200, 40), -1)
    elif number == 2:
        cv2.circle(image, centre, half - 5, (40, 60, 220), 8)
    elif number == 3:
        cv2.line(image, (x, y), last, (230, 210, 20), 8)
        cv2.line(image, (last[0], y), (x, last[1]), (230, 210, 20), 8)
    else:
        cv2.rectangle(image, (x, y + 12), (last[0], y + 28), (250, 250, 250), -1)


def write_part(folder: Path, part: str, per_class: int, seed: int) -> None:
    """`part`.json and its pictures: one class an image, in every third two objects of it."""
    rng = np.random.default_rng(seed)
    (folder / part).mkdir(parents=True)
    images, annotations = [], []
    for i in range(per_class * len(CLASSES)):
        number = i % len(CLASSES)
        image = rng.integers(70, 130, (SIDE, SIDE, 3)).astype(np.uint8)
        image = cv2.GaussianBlur(image, (0, 0), 3)
        for x in (8, 72)[: 2 if i % 3 == 0 else 1]:
            left, top = x + int(rng.integers(12)), int(rng.integers(SIDE - OBJECT))
            draw_object(image, number, left, top)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": number + 1,
                    "bbox": [left, top, OBJECT, OBJECT],
                    "area": OBJECT * OBJECT,
                    "iscrowd": 0,
                }
            )
        name = f"{i + 1:06d}.png"
        cv2.imwrite(str(folder / part / name), image[..., ::-1])
        images.append({"id": i + 1, "file_name": name, "width": SIDE, "height": SIDE})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{part}.json").write_text(json.dumps(content))


@pytest.fixture(scope="package", autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="package")
def datasets_root(tmp_path_factory) -> Path:
    """A $DETECTRON2_DATASETS with the registered task `fs_mini`."""
    root = tmp_path_factory.mktemp("datasets")
    folder = root / "few_shot" / "mini"
    write_part(folder, "train", 8, seed=0)
    write_part(folder, "test", 2, seed=1)
    write_shot_files(folder / "train.json", folder / "shots", NOVEL, (1, 2), (0, 1))
    register_few_shot_builtin(root)
    yield root
    for name in [one for one in DatasetCatalog.list() if one.startswith(NAME)]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="package")
def train_net(datasets_root) -> Callable[..., dict]:
    """`tools/train_net.py` in this process: (output folder, *arguments) -> its summaries."""
    return trainer_of(INSTANT)


@pytest.fixture(scope="package")
def base_weights(train_net, tmp_path_factory) -> Path:
    """What base training leaves."""
    output = tmp_path_factory.mktemp("base")
    assert train_net(output, "FEW_SHOT.STEP", "base") == {}
    return output / "localizer.pth"
