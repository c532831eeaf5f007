"""Pictures as the page shows them: shrunk, as JPEG, from a cache."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from PIL import Image

from ..data.pictures import read_picture
from ..engine.searcher import Searcher
from .settings import WebSettings
from .uploads import Upload, decode_picture

SIDES = (320, 1280)
"""Longer side in pixels of what the page may ask for: thumbnails and large views."""

_QUALITY = 85


@dataclass(frozen=True)
class Rendered:
    """A shrunk picture.

    Attributes:
        jpeg: the file.
        etag: changes where the picture does.
    """

    jpeg: bytes
    etag: str


class Pictures:
    """Shrunk pictures of an index and of uploads. Thread safe; decoding is not locked."""

    def __init__(self, searcher: Searcher, settings: WebSettings) -> None:
        self._searcher = searcher
        self._lock = threading.Lock()
        self._rendered: LRUCache = LRUCache(settings.thumbnail_memory, getsizeof=_weight)

    def of_index(self, image_id: int, side: int) -> Rendered:
        """A picture of the index, at most `side` pixels long.

        Raises:
            KeyError: where the index has no such picture.
            OSError, UnreadablePictureError: where its file is gone or damaged.
        """
        path = self._searcher.image_path(image_id)
        key = ("index", image_id, side, _stamp(path))
        return self._cached(key, lambda: _fit(read_picture(path, side).pixels, side))

    def of_upload(self, upload: Upload, side: int) -> Rendered:
        """An uploaded picture, at most `side` pixels long."""
        key = ("upload", upload.token, side)
        return self._cached(key, lambda: _fit(decode_picture(upload.data, side).pixels, side))

    def _cached(self, key: tuple, render: Callable[[], Image.Image]) -> Rendered:
        with self._lock:
            known = self._rendered.get(key)
        if known is None:
            etag = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
            known = Rendered(_encode(render()), f'"{etag}"')
            with self._lock:
                if _weight(known) <= self._rendered.maxsize:
                    self._rendered[key] = known
        return known


def _fit(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return image


def _encode(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=_QUALITY)
    return target.getvalue()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _weight(rendered: Rendered) -> int:
    return len(rendered.jpeg) + 512
