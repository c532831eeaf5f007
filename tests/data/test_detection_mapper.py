"""Training items of Detectron2's own detectors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from spil_d2.data.augmentation import RandomCropAroundBoxes
from spil_d2.data.detection_mapper import DetectionMapper


@pytest.fixture
def record(tmp_path) -> dict:
    """A red square at (40, 20) of 20 x 30 pixels, and a crowd."""
    image = np.zeros((80, 100, 3), np.uint8)
    image[20:50, 40:60, 0] = 255
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image[..., ::-1])
    annotations = [
        {"bbox": [40.0, 20.0, 20.0, 30.0], "category_id": 2, "iscrowd": 0},
        {"bbox": [0.0, 0.0, 100.0, 80.0], "category_id": 1, "iscrowd": 1},
    ]
    for one in annotations:
        one["bbox_mode"] = BoxMode.XYWH_ABS
    size = {"height": 80, "width": 100}
    return {"file_name": str(path), "image_id": 7, "annotations": annotations, **size}


def _mapper() -> DetectionMapper:
    return DetectionMapper(
        [RandomCropAroundBoxes(1.0), T.Resize((160, 200)), T.RandomFlip()], "RGB"
    )


def test_the_box_goes_with_the_picture_and_crowds_are_left_out(record) -> None:
    for seed in range(4):
        item = _mapper()(record, np.random.default_rng(seed))
        assert item["image"].shape == (3, 160, 200) and item["image_id"] == 7
        instances = item["instances"]
        assert instances.image_size == (160, 200) and instances.gt_classes.tolist() == [2]
        x0, y0, x1, y1 = instances.gt_boxes.tensor[0].round().int().tolist()
        red = item["image"][0] > 127
        rows, columns = red.any(dim=1).nonzero()[:, 0], red.any(dim=0).nonzero()[:, 0]
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array([x0, y0, x1, y1]) - np.array([int(v) for v in seen])).max() <= 2


def test_an_item_is_a_function_of_record_and_generator(record) -> None:
    before = [dict(one) for one in record["annotations"]]
    first, second, other = (_mapper()(record, np.random.default_rng(s)) for s in (3, 3, 4))
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["instances"].gt_boxes.tensor, second["instances"].gt_boxes.tensor)
    assert not torch.equal(first["image"], other["image"])
    assert record["annotations"] == before
