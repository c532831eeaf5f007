"""Uploaded pictures: what is accepted, what is refused, how long it is kept."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spil_d2.data.pictures import Picture, read_picture
from spil_d2.web import uploads
from spil_d2.web.settings import WebSettings
from spil_d2.web.uploads import (
    PictureError,
    UploadStore,
    check_picture,
    decode_picture,
)

from ..pictures import progressive

PIXELS = np.arange(20 * 40 * 3, dtype=np.uint8).reshape(20, 40, 3)


def encoded(kind: str, pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind, **options)
    return target.getvalue()


def png_head(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_pictures_are_accepted(kind: str) -> None:
    assert check_picture(encoded(kind), WebSettings()) == (40, 20)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_size_and_pixels_are_those_of_the_displayed_picture(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(kind, exif=exif)
    assert check_picture(data, WebSettings()) == (20, 40)
    assert decode_picture(data).pixels.shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"GIF89a", "no picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
        (pickle.dumps({"a": 1}), "no picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that can be read"),
        (encoded("PPM"), "no picture that can be read"),
        (encoded("JPEG")[:-200], "damaged"),
        (encoded("PNG")[:-40], "damaged"),
        (png_head(4000, 4000), "damaged"),
        (png_head(20_000, 5_001), "20000 x 5001.*100 megapixels"),
        (png_head(60_000, 60_000), "too many pixels"),
        (progressive(encoded("JPEG", progressive=True), 101), "more than 100 scans"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_fit_picture_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        check_picture(data, WebSettings())


def test_pixels_are_counted_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("PNG")
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it is decoded"))
    with pytest.raises(PictureError, match="too many pixels"):
        check_picture(data, WebSettings(max_pixels=799))


def test_they_are_read_like_those_of_the_index(tmp_path: Path) -> None:
    """Transparency on white, 16 bits scaled: what is searched looks like what was indexed."""
    pixels = np.dstack([PIXELS, np.arange(800, dtype=np.uint8).reshape(20, 40)])
    deep = np.arange(800, dtype=np.uint16).reshape(20, 40) * 80
    for name, one in (("transparent.png", pixels), ("deep.png", deep)):
        Image.fromarray(one).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        expected = read_picture(tmp_path / name).pixels
        np.testing.assert_array_equal(decode_picture(data).pixels, expected)


def test_a_picture_of_many_scans_is_accepted() -> None:
    assert check_picture(progressive(encoded("JPEG", progressive=True), 100), WebSettings()) == (
        40,
        20,
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("no frame"), OverflowError()])
def test_whatever_a_decoder_raises_is_told(monkeypatch, error: Exception) -> None:
    def fail(_: Image.Image) -> None:
        raise error

    data = encoded("BMP")
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(PictureError, match="damaged"):
        decode_picture(data)


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch) -> None:
    running, most = [], []

    def decode(image: Image.Image, _: int | None) -> Picture:
        running.append(image)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return Picture(PIXELS, 40, 20)

    monkeypatch.setattr(uploads, "picture_of", decode)
    for limit, expected in ((799, 1), (800, 4)):
        monkeypatch.setattr(uploads, "_LARGE_PIXELS", limit)
        most.clear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(decode_picture, [encoded("BMP")] * 4))
        assert max(most) == expected


def test_bytes_are_counted() -> None:
    data = encoded("BMP")
    check_picture(data, WebSettings(max_upload_bytes=len(data)))
    with pytest.raises(PictureError, match="larger than"):
        check_picture(data, WebSettings(max_upload_bytes=len(data) - 1))


def test_the_least_recently_used_makes_room() -> None:
    data = encoded("BMP")
    room = 2 * (len(data) + 4096)
    store = UploadStore(WebSettings(upload_memory=room, max_upload_bytes=len(data)))
    first, second = store.add(data), store.add(data)
    assert len({first.token, second.token}) == 2 and len(first.token) >= 20
    assert store.get(first.token).data == data
    third = store.add(data)
    with pytest.raises(KeyError):
        store.get(second.token)
    assert [store.get(one.token).width for one in (first, third)] == [40, 40]
