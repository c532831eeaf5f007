"""Boxes as numpy arrays: which ones are usable, and how much two of them overlap.

Boxes are XYXY_ABS in pixels of the picture that they are on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BoxFilter:
    """Which boxes are worth a seed or a training pair (CST, spec 3.4 and 5.1).

    Attributes:
        min_side: the least width and height in pixels.
        max_aspect: the largest of width / height and height / width; 0 allows all.
        min_area, max_area: as parts of the picture's area, in [0, 1].
    """

    min_side: float = 1.0
    max_aspect: float = 0.0
    min_area: float = 0.0
    max_area: float = 1.0

    def __post_init__(self) -> None:
        if self.min_side <= 0:
            raise ValueError(f"the least side of a box is > 0 pixels, got {self.min_side}")
        if self.max_aspect != 0 and self.max_aspect < 1:
            raise ValueError(f"the largest aspect is 0 (all) or at least 1, got {self.max_aspect}")
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ValueError(
                "areas are parts of the picture with 0 <= min_area <= max_area <= 1, got "
                f"{self.min_area} and {self.max_area}"
            )

    def keeps(self, boxes: np.ndarray, width: int, height: int) -> np.ndarray:
        """Which boxes pass.

        Args:
            boxes: (N, 4).
            width, height: of the picture in pixels.

        Returns:
            (N,) bool.
        """
        sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
        kept = (sides >= self.min_side).all(axis=1)
        area = sides.prod(axis=1) / (width * height)
        kept &= (area >= self.min_area) & (area <= self.max_area)
        if self.max_aspect:
            kept &= sides.max(axis=1) <= self.max_aspect * sides.min(axis=1)
        return kept


def clip_boxes(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N, 4) -> (N, 4) float32, cut at the borders of a picture; what lies outside is empty."""
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), 0, limits)


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of box i of `a` with box i of `b`: (N, 4), (N, 4) -> (N,) float64, 0 for empty boxes."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    union = _area(a) + _area(b) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
