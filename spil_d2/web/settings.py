"""What the web page allows."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK_NAMES = frozenset({"localhost"})
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that are accepted; JPEG covers the MPO of many telephones."""


@dataclass(frozen=True)
class WebSettings:
    """Limits of the server.

    Attributes:
        host_names: names under which the page may be asked for, in small letters. IP addresses
            are always allowed: only a name can be rebound to another address.
        max_upload_bytes: of one uploaded picture.
        max_pixels: of one uploaded picture, looked at before it is decoded.
        upload_memory: bytes of all uploaded pictures; the least recently used make room.
        thumbnail_memory: bytes of the pictures that were shrunk for the page.
        body_memory: bytes of all requests that are being received or worked on; more are refused.
        max_searches: searches whose boxes can still be refined; the oldest make room.
        max_k: results of one search.
        max_pictures: query pictures of one search.
        max_boxes: boxes on one query picture.
        thumbnail_workers: pictures of the index that are decoded for the page at a time, and as
            many uploaded ones.
        max_connections: open at a time. The one that has waited longest for its client makes room;
            where the server is busy with all of them, further requests are refused.
        head_seconds: for sending the head of a request, also of the next one of a connection.
        body_seconds: for sending a request's body, and a second more for every `body_rate` bytes.
        body_rate: bytes a second.
        answer_seconds: for taking an answer.
    """

    host_names: frozenset[str] = LOOPBACK_NAMES
    max_upload_bytes: int = 25 * 2**20
    max_pixels: int = 100_000_000
    upload_memory: int = 256 * 2**20
    thumbnail_memory: int = 128 * 2**20
    body_memory: int = 128 * 2**20
    max_searches: int = 64
    max_k: int = 1000
    max_pictures: int = 16
    max_boxes: int = 32
    thumbnail_workers: int = 2
    max_connections: int = 128
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    body_rate: int = 64 * 2**10
    answer_seconds: float = 30.0
