"""A tiny COCO few-shot tree in the official layout, for trying commands and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...utils.artifacts import write_json_atomic
from .few_shot_classes import COCO_SPLIT, NOVEL_NAMES
from .few_shot_prepare import write_shot_files

_SIZE = (160, 120)
# One thing each, apart from one another.
_CELLS = ((0, 0), (80, 0), (0, 60), (80, 60))
_CELL = (80, 60)
_NUM_TRAIN, _TRAIN_STEP, _TRAIN_THINGS = 80, 1, 3
_NUM_TEST, _TEST_STEP, _TEST_THINGS = 20, 4, 4


def build_tiny_coco(
    root: str | Path, year: int = 2014, shots: Sequence[int] = (1, 2), seeds: Sequence[int] = (0, 1)
) -> None:
    """Write `coco/` and `cocosplit/` below a root of data sets.

    80 training images with three classes each, so that each of the 80 classes has three boxes
    (one more, a crowd, on every tenth image), and 20 test images with four classes each. A class
    is a colour with stripes. Annotation files have the names of 2014, as published.

    Args:
        root: $DETECTRON2_DATASETS.
        year: 2014 for `train2014`, `val2014`; 2017 for `train2017`, `val2017` with names by id.
        shots, seeds: of the shot files.

    Raises:
        ValueError: another year.
        FileExistsError: a tree is there already.
    """
    if year not in (2014, 2017):
        raise ValueError(f"year {year}: COCO's few-shot images are those of 2014 or 2017")
    root = Path(root)
    train, test = _Part(root / "coco", "train", year), _Part(root / "coco", "val", year)
    for i in range(_NUM_TRAIN):
        train.add(1000 + 7 * i, i * _TRAIN_STEP, _TRAIN_THINGS, has_crowd=i % 10 == 0)
    for i in range(_NUM_TEST):
        test.add(5000 + 3 * i, i * _TEST_STEP, _TEST_THINGS, has_crowd=False)
    lists = root / "cocosplit"
    (lists / "datasplit").mkdir(parents=True)
    for part, name in ((train, "trainvalno5k.json"), (test, "5k.json")):
        write_json_atomic(lists / "datasplit" / name, part.content())
    annotations = lists / "datasplit" / "trainvalno5k.json"
    write_shot_files(annotations, lists, NOVEL_NAMES["coco"], shots, seeds)


@dataclass
class _Part:
    """Images and annotations of one half."""

    root: Path
    kind: str
    year: int
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, image_id: int, first: int, count: int, has_crowd: bool) -> None:
        """One image with `count` classes from the place `first` among the 80 on."""
        rng = np.random.default_rng(image_id)
        canvas = rng.integers(90, 140, (_SIZE[1], _SIZE[0], 3)).astype(np.uint8)
        places = [(first + k) % len(COCO_SPLIT.ids) for k in range(count)]
        for (x, y), place in zip(_CELLS, places):
            w, h = int(rng.integers(30, 70)), int(rng.integers(25, 50))
            x, y = x + int(rng.integers(0, _CELL[0] - w)), y + int(rng.integers(0, _CELL[1] - h))
            canvas[y : y + h, x : x + w] = _texture(place, h, w)
            self._annotate(image_id, COCO_SPLIT.ids[place], [x, y, w, h], 0)
        if has_crowd:
            self._annotate(image_id, COCO_SPLIT.ids[places[0]], [80, 60, 80, 60], 1)
        name = f"COCO_{self.kind}2014_{image_id:012d}.jpg"
        stored = name if self.year == 2014 else f"{image_id:012d}.jpg"
        folder = self.root / f"{self.kind}{self.year}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(canvas).save(folder / stored, quality=90)
        size = {"width": _SIZE[0], "height": _SIZE[1]}
        self.images.append({"id": image_id, "file_name": name, **size})

    def _annotate(self, image_id: int, category_id: int, box: list[int], crowd: int) -> None:
        one = {"id": 10 * image_id + len(self.annotations) % 10, "image_id": image_id}
        shape = {"bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
        self.annotations.append({**one, "category_id": category_id, **shape})

    def content(self) -> dict[str, Any]:
        """The annotation file."""
        names = COCO_SPLIT.names
        return {
            "info": {"description": "tiny stand-in for COCO"},
            "licenses": [],
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": one, "name": names[one]} for one in COCO_SPLIT.ids],
        }


def _texture(place: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: two colours in stripes that tell the class."""
    rng = np.random.default_rng([80, place])
    colours = rng.integers(0, 256, (2, 3)).astype(np.uint8)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 16)
    rows, columns = np.mgrid[:height, :width]
    wave = (rows * np.sin(angle) + columns * np.cos(angle)) / period
    return colours[(wave % 1 < 0.5).astype(int)]
