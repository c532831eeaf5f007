"""Query crops: a square of context around a box, at one size (D4)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..structures import Box

CROP_SHAPES = ("square", "tight")


@dataclass(frozen=True)
class CropGeometry:
    """How a box becomes a crop.

    Attributes:
        size: side of the crop after resizing, in pixels.
        context: pixels of the resized crop on each end of the box's long side.
        shape: "square" keeps the aspect ratio and zero-pads outside the image; "tight" stretches
            the box with its context to the square.
    """

    size: int = 320
    context: int = 16
    shape: str = "square"

    def __post_init__(self) -> None:
        if self.shape not in CROP_SHAPES or not 0 <= 2 * self.context < self.size:
            raise ValueError(
                f"crop shape {self.shape!r} is none of {CROP_SHAPES}, or the context of "
                f"{self.context} px leaves nothing of {self.size} px"
            )

    def crop(self, image: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Cut `box` out of `image`.

        Args:
            image: (H, W, 3) uint8.
            box: XYXY_ABS in pixels of `image`.

        Returns:
            The crop (size, size, 3) uint8, zero outside the image, and the box in its pixels
            (4,) float32.
        """
        x0, y0, x1, y1 = box
        width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
        if self.shape == "square":
            width = height = max(width, height)
        inner = self.size - 2 * self.context
        scale = np.array([inner / width, inner / height])
        center = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        origin = center - self.size / 2 / scale
        # Pixel centres lie at +0.5: move by it before and after scaling.
        offset = -origin * scale + 0.5 * scale - 0.5
        matrix = np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]]])
        crop = cv2.warpAffine(
            _smooth(image, float(scale.min())),
            matrix,
            (self.size, self.size),
            flags=cv2.INTER_LINEAR,
        )
        inside = (np.array(box).reshape(2, 2) - origin) * scale
        return crop, inside.reshape(4).astype(np.float32)


def _smooth(image: np.ndarray, scale: float) -> np.ndarray:
    """Blur before shrinking, since warpAffine samples without antialiasing."""
    if scale >= 0.75:
        return image
    return cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
