"""Training items of Detectron2's own detectors, for streams in which item i depends on i alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import BoxMode

from .pictures import read_pixels


class DetectionMapper:
    """From a dataset dict to "image" and "instances", as Detectron2's DatasetMapper.

    Here augmentations see the boxes, and draw from the generator that is given.
    """

    def __init__(self, augmentations: Sequence[T.Augmentation], image_format: str):
        """
        Args:
            augmentations: of picture and boxes.
            image_format: channel order of the model, e.g. "RGB".
        """
        self._augmentations = T.AugmentationList(augmentations)
        self._format = image_format

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        """The training item; the same record and generator state give the same item.

        Args:
            record: Detectron2 dataset dict with at least one annotation that is no crowd.
            rng: generator of the item.
        """
        # Detectron2's augmentations draw from numpy's global generator.
        np.random.seed(rng.integers(2**32))
        image = read_pixels(record["file_name"], self._format)
        annotations = [one for one in record["annotations"] if not one.get("iscrowd", 0)]
        boxes = [
            BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS) for one in annotations
        ]
        inputs = T.AugInput(image, boxes=np.array(boxes, np.float64))
        transforms = self._augmentations(inputs)
        size = inputs.image.shape[:2]
        moved = [
            transform_instance_annotations(copy.deepcopy(one), transforms, size)
            for one in annotations
        ]
        pixels = np.ascontiguousarray(inputs.image.transpose(2, 0, 1))
        return {
            "file_name": record["file_name"],
            "image_id": record["image_id"],
            "height": record["height"],
            "width": record["width"],
            "image": torch.from_numpy(pixels),
            "instances": filter_empty_instances(annotations_to_instances(moved, size)),
        }
