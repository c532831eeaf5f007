"""Opening a picture file that may come from anybody, and its pixels."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image

from .reading import DAMAGED, printable

logger = logging.getLogger(__name__)

MAX_SCANS = 100
"""Each scan of a JPEG takes the time of the whole picture and as little as 12 bytes. libtiff has
the same limit; cameras and editors write at most some 20."""

MAX_PIXELS = 178_000_000
"""Larger pictures are refused: they may be decompression bombs. Pillow's own limit is near."""

# Not among them are formats that run other programs (EPS) or are no pictures (PDF, HDF5, ...).
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA")
_OPTIONAL_FORMATS = ("ICO", "AVIF", "HEIF")
_HEIF_SUFFIXES = (".heic", ".heif")
_EXIF_ORIENTATION = 274
_JPEG_FORMATS = ("JPEG", "MPO")
# A marker of JPEG. In coded pixels 0xFF is followed by 0 or by the number of a restart.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_ALONE, _START_OF_SCAN, _END = (0x01, 0xD8), 0xDA, 0xD9
_DECODER_ERRORS = (*DAMAGED, Image.DecompressionBombError)
# The filters of warnings belong to the whole process.
_warnings_lock = threading.Lock()


class UnreadablePictureError(ValueError):
    """A file that is no readable picture; `reason` says why, without the path."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(printable(f"{path} is not a readable picture: {reason}"))
        self.path = path
        self.reason = printable(reason)

    def __reduce__(self) -> tuple[type, tuple[str | Path, str]]:
        # Errors of worker processes are sent as the arguments that make them again.
        return type(self), (self.path, self.reason)


def read_pixels(path: str | Path, image_format: str) -> np.ndarray:
    """The pixels of a dataset's picture, as Detectron2's `read_image` gives them.

    Unlike there, a file of a format that runs other programs, or of too many pixels, is refused,
    and every error names the file.

    Args:
        path: of the file.
        image_format: "RGB", "BGR" or another of Detectron2's.

    Returns:
        (H, W, C) uint8, turned as EXIF says.

    Raises:
        UnreadablePictureError: as `read_picture`.
    """
    with open_picture(path) as image:
        image.load()
        pixels = convert_PIL_to_numpy(image, image_format)
        return np.ascontiguousarray(turned(pixels, orientation_of(image)))


@contextlib.contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Open a picture whose pixels are not decoded yet; what its decoder raises inside is told.

    Raises:
        UnreadablePictureError: as `read_picture`.
    """
    path = Path(path)
    try:
        _check_file(path)
        with _open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadablePictureError(
                    path,
                    f"{image.width}x{image.height} pixels are more than the allowed {MAX_PIXELS}",
                )
            if (reason := too_many_scans(image, path.read_bytes)) is not None:
                raise UnreadablePictureError(path, reason)
            yield image
    except UnreadablePictureError:
        raise
    except _DECODER_ERRORS as error:
        raise UnreadablePictureError(path, _reason(error, path)) from error


def too_many_scans(image: Image.Image, read: Callable[[], bytes]) -> str | None:
    """Why a picture takes too long to decode, or None.

    Args:
        image: opened.
        read: its file, also a damaged one; called for a JPEG.
    """
    if image.format not in _JPEG_FORMATS or count_scans(read()) <= MAX_SCANS:
        return None
    return f"the JPEG has more than {MAX_SCANS} scans: save it anew"


def count_scans(data: bytes) -> int:
    """How often the first picture of a JPEG file goes over its pixels; 1 if it is not progressive.

    Args:
        data: the file, also a damaged one.
    """
    scans, place = 0, 0
    while (found := _MARKER.search(data, place)) is not None and found[1][0] != _END:
        place = found.end()
        scans += found[1][0] == _START_OF_SCAN
        if found[1][0] not in _ALONE:
            place += int.from_bytes(data[place : place + 2])
    return scans


def _check_file(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadablePictureError(path, "it is no ordinary file")
    if status.st_size == 0:
        raise UnreadablePictureError(path, "the file is empty")


def _open(path: Path) -> Image.Image:
    with _warnings_lock, warnings.catch_warnings():
        # Pillow warns from half of the limit on, and about odd headers that it can read.
        warnings.simplefilter("ignore")
        return Image.open(path, formats=_known_formats())


@functools.cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in (*_FORMATS, *_OPTIONAL_FORMATS) if name in Image.OPEN)


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where EXIF is damaged, as viewers have it."""
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODER_ERRORS as error:
        logger.debug("EXIF of %s is damaged: %s", getattr(image, "filename", "a picture"), error)
        return 1
    return value if value in range(1, 9) else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, C) as they are displayed, by EXIF's orientation."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _reason(error: BaseException, path: Path) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        if path.suffix.lower() in _HEIF_SUFFIXES and "HEIF" not in _known_formats():
            return "HEIF pictures need the package pillow-heif"
        return "its content is of no known picture format"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than the allowed {MAX_PIXELS} pixels"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error or type(error).__name__}"
