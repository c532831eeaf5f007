"""Query pictures: a square of context around a box, at one size (D4), or the whole picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.data import transforms as T

from ..structures import Box

CROP_SHAPES = ("square", "tight")
QUERY_FORMATS = ("crop", "image")


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


@dataclass(frozen=True)
class WholePicture:
    """The whole picture, with the box in it, in place of a crop (CST's "large_bbox").

    Attributes:
        min_size, max_size: of the resized picture's shorter and longer side, in pixels.
    """

    min_size: int
    max_size: int

    def crop(self, image: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Arguments and returns as `CropGeometry.crop`'s, but for the size (h, w, 3)."""
        resize = T.ResizeShortestEdge([self.min_size, self.min_size], self.max_size)
        resized = resize.get_transform(image).apply_image(image)
        scale = np.array(resized.shape[1::-1]) / np.array(image.shape[1::-1])
        return resized, (np.array(box) * np.tile(scale, 2)).astype(np.float32)


QueryGeometry = CropGeometry | WholePicture
"""How a query's picture and box become what the model encodes."""


def build_query_geometry(cfg) -> QueryGeometry:
    """Of MODEL.QUERY.FORMAT: "crop" by the CROP_* keys, "image" by the test sizes of INPUT."""
    query = cfg.MODEL.QUERY
    if query.FORMAT not in QUERY_FORMATS:
        raise ValueError(f"MODEL.QUERY.FORMAT is {query.FORMAT!r}: use one of {QUERY_FORMATS}")
    if query.FORMAT == "image":
        return WholePicture(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return CropGeometry(query.CROP_SIZE, query.CROP_CONTEXT, query.CROP_SHAPE)


def _smooth(image: np.ndarray, scale: float) -> np.ndarray:
    """Blur before shrinking, since warpAffine samples without antialiasing."""
    if scale >= 0.75:
        return image
    return cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
