"""Pictures that users bring: checked, kept in memory, never written to disk."""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
from dataclasses import dataclass

from cachetools import LRUCache
from PIL import Image

from ..data.pictures import Picture, picture_of
from ..utils.picture_files import too_many_scans
from ..utils.reading import DAMAGED
from .settings import PICTURE_FORMATS, WebSettings

_OVERHEAD = 4096
_CHECKED_SIDE = 1280
# A decoder may take 16 bytes a pixel (WebP does): larger pictures wait for each other.
_LARGE_PIXELS = 16_000_000
_large = threading.Lock()


class PictureError(ValueError):
    """A picture that is not accepted, in words for the user."""


@dataclass(frozen=True)
class Upload:
    """One picture in memory.

    Attributes:
        token: random name.
        data: the file as it came.
        width, height: of the picture as displayed (EXIF applied), in pixels.
    """

    token: str
    data: bytes
    width: int
    height: int


class UploadStore:
    """Uploaded pictures by random tokens; the least recently used make room. Thread safe."""

    def __init__(self, settings: WebSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._uploads: LRUCache = LRUCache(
            max(settings.upload_memory, settings.max_upload_bytes + _OVERHEAD),
            getsizeof=lambda upload: len(upload.data) + _OVERHEAD,
        )

    def add(self, data: bytes) -> Upload:
        """Check a picture and keep it.

        Raises:
            PictureError: for an empty, too large, unknown or damaged file.
        """
        width, height = check_picture(data, self._settings)
        upload = Upload(secrets.token_urlsafe(16), data, width, height)
        with self._lock:
            self._uploads[upload.token] = upload
        return upload

    def get(self, token: str) -> Upload:
        """The picture of a token.

        Raises:
            KeyError: where there is none (any more).
        """
        with self._lock:
            return self._uploads[token]


def check_picture(data: bytes, settings: WebSettings) -> tuple[int, int]:
    """Width and height as displayed of an uploaded picture that can be decoded to its end.

    Args:
        data: the file.
        settings: its limits.

    Raises:
        PictureError: for an empty, too large, unknown or damaged file.
    """
    if not data:
        raise PictureError("the file is empty")
    if len(data) > settings.max_upload_bytes:
        raise PictureError(too_many_bytes(settings))
    with _open(data) as image:
        width, height = image.size
        if width * height > settings.max_pixels:
            raise PictureError(_too_many_pixels(f"{width} x {height}", settings.max_pixels))
        if (reason := too_many_scans(image, lambda: data)) is not None:
            raise PictureError(reason)
    # A part of the pixels is enough to see that they can be decoded to the end.
    picture = decode_picture(data, _CHECKED_SIDE)
    return picture.width, picture.height


def too_many_bytes(settings: WebSettings) -> str:
    """What the user reads about a file that is too long."""
    return (
        f"the file is larger than {settings.max_upload_bytes / 2**20:.0f} MB: save the picture "
        "smaller or as JPEG"
    )


def decode_picture(data: bytes, enough_side: int | None = None) -> Picture:
    """An uploaded picture, as `read_picture` reads those of the index.

    Args:
        data: the file.
        enough_side: see `read_picture`.

    Raises:
        PictureError: for a damaged file.
    """
    with _open(data) as image:
        is_large = image.width * image.height > _LARGE_PIXELS
        try:
            with _large if is_large else contextlib.nullcontext():
                return picture_of(image, enough_side)
        except DAMAGED as error:
            raise PictureError("the picture is damaged: it cannot be read to its end") from error


def _open(data: bytes) -> Image.Image:
    try:
        Image.init()
        return Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError(_too_many_pixels("this one", None)) from error
    except DAMAGED as error:
        raise PictureError(
            "this is no picture that can be read: choose a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF "
            "file"
        ) from error


def _too_many_pixels(seen: str, limit: int | None) -> str:
    most = "" if limit is None else f", {limit / 1e6:.0f} megapixels are the most"
    return f"the picture has too many pixels ({seen}{most}): save it smaller"
