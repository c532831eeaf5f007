"""Augmentations that Detectron2 lacks."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T


class RandomCropAroundBoxes(T.Augmentation):
    """Cut away background at random, never any part of the labelled boxes.

    Each side of the crop lies uniformly between the picture's border and the boxes' hull, so that
    the object appears at other sizes and places.
    """

    def __init__(self, probability: float = 0.5, margin: float = 0.1):
        """
        Args:
            probability: of cropping at all.
            margin: part of the way from the hull to the border that always stays.
        """
        super().__init__()
        self.probability = probability
        self.margin = margin

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
        if np.random.uniform() >= self.probability:
            return T.NoOpTransform()
        height, width = image.shape[:2]
        x0, y0 = np.clip(boxes[:, :2].min(axis=0), 0, (width - 1, height - 1))
        x1, y1 = np.clip(boxes[:, 2:].max(axis=0), (x0 + 1, y0 + 1), (width, height))
        free = 1 - self.margin
        left, top = int(np.random.uniform(0, x0 * free)), int(np.random.uniform(0, y0 * free))
        right = int(np.ceil(np.random.uniform(width - (width - x1) * free, width)))
        bottom = int(np.ceil(np.random.uniform(height - (height - y1) * free, height)))
        return T.CropTransform(left, top, right - left, bottom - top, width, height)
