"""Reading any picture that a folder may hold, as it is displayed, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..utils.picture_files import (
    MAX_PIXELS,
    UnreadablePictureError,
    open_picture,
    orientation_of,
    read_pixels,
    turned,
)

__all__ = [
    "MAX_PIXELS",
    "PICTURE_SUFFIXES",
    "Picture",
    "UnreadablePictureError",
    "is_picture_name",
    "open_picture",
    "orientation_of",
    "picture_of",
    "read_picture",
    "read_pixels",
]

PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .tif .tiff .webp .ppm .pgm .pbm .pnm "
    ".jp2 .j2k .tga .ico .avif .heic .heif".split()
)
"""File name endings, in lower case, of what is taken for a picture."""

_STRIP_PIXELS = 4_000_000
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """A picture as displayed, perhaps reduced.

    Attributes:
        pixels: (H', W', 3) uint8 RGB, turned as EXIF says.
        width, height: of the whole picture as displayed, in pixels; `pixels` may have fewer.
    """

    pixels: np.ndarray
    width: int
    height: int

    def to_displayed(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) XYXY of `pixels` as float32 boxes of the whole picture."""
        return (np.asarray(boxes, np.float32).reshape(-1, 4) * self._scale).astype(np.float32)

    def from_displayed(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) XYXY of the whole picture as float32 boxes of `pixels`."""
        return (np.asarray(boxes, np.float32).reshape(-1, 4) / self._scale).astype(np.float32)

    @property
    def _scale(self) -> np.ndarray:
        height, width = self.pixels.shape[:2]
        return np.array([self.width / width, self.height / height] * 2)


def read_picture(path: str | Path, enough_side: int | None = None) -> Picture:
    """Read a picture: the first frame, 16 bits scaled to 8, transparency on white.

    Args:
        path: of the file.
        enough_side: the picture may be reduced as long as its longer side keeps this many pixels;
            that bounds memory and time for large pictures. None reads all of it.

    Raises:
        UnreadablePictureError: for a file that is missing, empty, damaged, too large or of an
            unknown kind, with the reason.
    """
    with open_picture(path) as image:
        return picture_of(image, enough_side)


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is taken for a picture."""
    return Path(name).suffix.lower() in PICTURE_SUFFIXES


def picture_of(image: Image.Image, enough_side: int | None) -> Picture:
    """Decode an opened image as `read_picture` does; any of Pillow's errors passes through."""
    width, height = image.size
    if enough_side is not None and max(image.size) > enough_side:
        part = enough_side / max(image.size)
        # JPEG decodes at 1/2, 1/4 or 1/8 of the size, not below what is asked for.
        image.draft(None, (math.ceil(width * part), math.ceil(height * part)))
    image.load()
    factor = 1 if enough_side is None else max(1, max(image.size) // enough_side)
    pixels = _reduced_rgb(image, factor)
    # TIFF's decoder has turned the picture already and then says so.
    orientation = orientation_of(image)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return Picture(np.ascontiguousarray(turned(pixels, orientation)), width, height)


def _reduced_rgb(image: Image.Image, factor: int) -> np.ndarray:
    """(ceil(H / factor), ceil(W / factor), 3) uint8.

    Strip by strip: conversions of a whole picture of 100 megapixels would hold it several times.
    """
    levels = _value_range(image)
    rows = max(1, _STRIP_PIXELS // (image.width * factor)) * factor
    result = np.empty((-(-image.height // factor), -(-image.width // factor), 3), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb = _to_rgb(strip, levels)
        part = np.asarray(rgb.reduce(factor) if factor > 1 else rgb)
        result[top // factor : top // factor + len(part)] = part
    return result


def _value_range(image: Image.Image) -> tuple[float, float] | None:
    """What is black and white in a picture of more than 8 bits; None for one of 8 bits."""
    if image.mode.startswith("I;16"):
        return 0, 65535
    if image.mode not in ("I", "F"):
        return None
    low, high = image.getextrema()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its values are not finite")
    for white in (1, 255, 65535) if image.mode == "F" else (65535,):
        if 0 <= low and high <= white:
            return 0, white
    return low, high


def _to_rgb(image: Image.Image, levels: tuple[float, float] | None) -> Image.Image:
    if levels is not None:
        low, high = levels
        values = np.nan_to_num(np.asarray(image, np.float32), nan=low)
        scaled = np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255)
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    paper = Image.new("RGB", image.size, _WHITE)
    paper.paste(rgba, mask=rgba.getchannel("A"))
    return paper
