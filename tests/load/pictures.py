"""Pictures that are to harm a decoder: damaged ones, and small files that become large."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ..pictures import progressive

_KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_TOO_LARGE = 50_000


def damaged_pictures(rng: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    """Pictures with some bytes changed, cut out, doubled or taken from another.

    Args:
        rng: of all chance.
        number: how many.

    Yields:
        What it is, and the file.
    """
    for i in range(number):
        kind = rng.choice(_KINDS)
        data = bytearray(_whole(kind))
        for _ in range(rng.choice([1, 1, 3, 10])):
            place, size = rng.randrange(len(data)), rng.randrange(1, 9)
            change = rng.randrange(4)
            if change == 0:
                data[place : place + size] = rng.randbytes(size)
            elif change == 1:
                del data[place : place + size * 4]
            elif change == 2:
                data[place:place] = data[place : place + size * 4]
            else:
                data[place : place + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
            data = data or bytearray(1)
        yield f"{kind} {i}", bytes(data)


@functools.cache
def _whole(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return _saved(Image.fromarray(pixels), kind)


def bombs(heavy: bool) -> Iterator[tuple[str, bytes, bool]]:
    """Small files that claim, or hold, very many pixels.

    Args:
        heavy: also those that are small enough to be accepted, and take gigabytes to decode.

    Yields:
        What it is, the file, and whether it may be accepted.
    """
    yield "PNG head", _png(_TOO_LARGE, _TOO_LARGE, b""), False
    yield "PNG pixels", _png(_TOO_LARGE, 20_000, zlib.compress(bytes(10_000_000), 1)), False
    yield "PNG text", _png(60, 40, b"", _chunk(b"zTXt", _text(40_000_000))), False
    yield "JPEG head", _jpeg(_TOO_LARGE), False
    yield "JPEG scans", _scans(30_000), False
    yield "GIF head", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + bytes(40), False
    head = struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "BMP head", b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head, False
    yield "WebP head", _webp(16_384), False
    yield "TIFF head", _tiff(_TOO_LARGE), False
    if heavy:
        yield "PNG of 100 megapixels", _saved(Image.new("RGB", (10_000, 10_000)), "PNG"), True
        yield "WebP of 64 megapixels", _saved(Image.new("RGB", (8_000, 8_000)), "WEBP"), True
        yield "JPEG of 100 megapixels", _saved(Image.new("RGB", (10_000, 10_000)), "JPEG"), True
        yield "PNG of chunks", _png(60, 40, b"", _chunk(b"tEXt", b"a\0b") * 300_000), True


def _saved(image: Image.Image, kind: str) -> bytes:
    options = {"PNG": {"compress_level": 1}, "WEBP": {"quality": 1, "method": 0}}.get(kind, {})
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, pixels: bytes, more: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _text(size: int) -> bytes:
    return b"Comment\0\0" + zlib.compress(bytes(size), 1)


def _jpeg(side: int) -> bytes:
    data = _whole("JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", side, side) + data[place + 4 :]


def _scans(number: int) -> bytes:
    """A progressive JPEG of 9 megapixels whose last scan comes again and again."""
    target = io.BytesIO()
    Image.new("L", (3000, 3000), 128).save(target, "JPEG", progressive=True)
    return progressive(target.getvalue(), number)


def _webp(side: int) -> bytes:
    size = struct.pack("<I", side - 1)[:3]
    chunk = b"VP8X" + struct.pack("<II", 10, 0x10) + size + size + b"ALPH" + struct.pack("<I", 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 6) + b"WEBP" + chunk + b"\0\0"


def _tiff(side: int) -> bytes:
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, side), (279, 4, 4_000_000)]
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + rows + bytes(4)
