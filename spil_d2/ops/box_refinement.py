"""Boxes brought to the borders of what they hold, by the colours of the picture alone.

A localizer that learns from its own boxes repeats their errors: nothing in them is new to it. The
colours on both sides of an object's border are new. GrabCut (Rother et al., SIGGRAPH 2004) parts
them; the box of the foreground replaces the localizer's, if the two agree on the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

METHODS = ("none", "grabcut")


@dataclass(frozen=True)
class GrabCutRefinement:
    """How a box is refined.

    Attributes:
        side: the longer side of the surroundings is resized to this, in pixels.
        context: surroundings on each side, as a part of the box's side; they are background.
        rim: just outside the box, as a part of its side: probably background, perhaps not.
        core: middle of the box, as a part of its sides, that is foreground for sure.
        iterations: of GrabCut.
        min_iou: with the given box, below which the foreground's box is not trusted.
        weight: of the foreground's box in the result; the rest is the given box's.
    """

    side: int = 160
    context: float = 0.6
    rim: float = 0.12
    core: float = 0.5
    iterations: int = 1
    min_iou: float = 0.6
    weight: float = 0.7

    def __call__(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Refine one box.

        Args:
            image: (H, W, 3) uint8.
            box: (4,) XYXY_ABS in its pixels, with area > 0.

        Returns:
            (4,) float64 in the same frame; the given box where no foreground agrees with it.
        """
        box = np.asarray(box, np.float64)
        window = _inside(_grown(box, self.context), image.shape[:2])
        x0, y0, x1, y1 = np.round(window).astype(int)
        shorter, longer = sorted((x1 - x0, y1 - y0))
        # A strip of less than two pixels, or of less than two cells, has no border to find.
        if shorter < 2 or shorter * self.side < 2 * longer:
            return box
        scale = self.side / longer
        pixels = cv2.resize(
            np.ascontiguousarray(image[y0:y1, x0:x1]),
            None,
            fx=scale,
            fy=scale,
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        )
        offset = np.array([x0, y0, x0, y0])
        found = self._foreground_box(pixels, (box - offset) * scale)
        if found is None:
            return box
        # A whole number of cells is a little more or less than the picture.
        found = _inside(found / scale + offset, image.shape[:2])
        if _iou(found, box) < self.min_iou:
            return box
        return (1 - self.weight) * box + self.weight * found

    def _foreground_box(self, pixels: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """Box of the largest foreground component, in the cells of `pixels`."""
        labels = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
        for grown, label in (
            (self.rim, cv2.GC_PR_BGD),
            (0.0, cv2.GC_PR_FGD),
            ((self.core - 1) / 2, cv2.GC_FGD),
        ):
            x0, y0, x1, y1 = _cells(_inside(_grown(box, grown), labels.shape))
            labels[y0:y1, x0:x1] = label
        if not (labels == cv2.GC_BGD).any() or not (labels == cv2.GC_FGD).any():
            return None
        # GrabCut's mixtures start from k-means, which draws from OpenCV's generator.
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        rectangle = (0, 0, 0, 0)  # Not read: the labels stand for it.
        cv2.grabCut(pixels, labels, rectangle, *models, self.iterations, mode=cv2.GC_INIT_WITH_MASK)
        foreground = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
        _, _, components, _ = cv2.connectedComponentsWithStats(foreground)
        x, y, width, height, _ = components[1 + components[1:, cv2.CC_STAT_AREA].argmax()]
        return np.array([x, y, x + width, y + height], np.float64)


def _grown(box: np.ndarray, part: float) -> np.ndarray:
    """The box moved outwards on each side by a part of its sides (inwards if negative)."""
    margin = part * (box[2:] - box[:2])
    return np.concatenate([box[:2] - margin, box[2:] + margin])


def _inside(box: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return np.clip(box, 0, [size[1], size[0], size[1], size[0]])


def _cells(box: np.ndarray) -> np.ndarray:
    """First and last-but-one cell that the box touches."""
    return np.concatenate([np.floor(box[:2]), np.ceil(box[2:])]).astype(int)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap))
