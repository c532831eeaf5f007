"""Pixels of a dataset's pictures are Detectron2's, for whatever Detectron2 reads rightly."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from spil_d2.utils import picture_files
from spil_d2.utils.picture_files import UnreadablePictureError, count_scans, read_pixels

from ..pictures import progressive


def picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "1"])
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
@pytest.mark.parametrize("orientation", [None, 2, 3, 5, 6, 8])
def test_pixels_are_those_of_detectron2(tmp_path, mode, image_format, orientation) -> None:
    path = tmp_path / ("a.png" if mode in ("RGBA", "P", "1") else "a.jpg")
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    picture(mode).save(path, exif=exif)
    found = read_pixels(path, image_format)
    np.testing.assert_array_equal(found, read_image(str(path), image_format))
    assert found.flags.c_contiguous


def test_a_tiff_is_turned_once(tmp_path) -> None:
    """Its decoder turns it already; Detectron2's reader turns it again."""
    exif = Image.Exif()
    exif[274] = 6
    picture().save(tmp_path / "a.tiff", exif=exif)
    expected = np.rot90(np.asarray(picture()), -1)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tiff", "RGB"), expected)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 100)
    picture().save(tmp_path / "a.png")
    with pytest.raises(UnreadablePictureError, match=r"a\.png .*14x9 pixels are more than"):
        read_pixels(tmp_path / "a.png", "RGB")


def test_scans_are_counted(tmp_path) -> None:
    """Not those of a thumbnail inside, nor what some telephones write after the picture."""
    data = saved(tmp_path / "plain.jpg")
    assert count_scans(data) == 1
    data = saved(tmp_path / "progressive.jpg", progressive=True)
    assert count_scans(data) == 10
    thumbnail = b"\xff\xe1" + struct.pack(">H", 302) + b"\xff\xda" * 150
    assert count_scans(data[:2] + thumbnail + data[2:] + b"\xff\xda" * 500) == 10
    for cut in range(len(data)):
        assert 0 <= count_scans(data[:cut]) <= 10


def test_a_jpeg_that_takes_minutes_is_refused(tmp_path) -> None:
    path = tmp_path / "scans.jpg"
    data = saved(path, progressive=True)
    path.write_bytes(progressive(data, 100))
    assert read_pixels(path, "RGB").shape == (9, 14, 3)
    path.write_bytes(progressive(data, 101))
    with pytest.raises(UnreadablePictureError, match=r"scans\.jpg.*more than 100 scans"):
        read_pixels(path, "RGB")


def saved(path: Path, **options: object) -> bytes:
    picture().save(path, **options)
    return path.read_bytes()
