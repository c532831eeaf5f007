"""Pictures: each encoding that a folder may hold, and odd kinds of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from spil_d2.data.datasets.image_sizes import displayed_size
from spil_d2.data.datasets.instance_search import check_dataset
from spil_d2.data.pictures import read_picture, read_pixels

from .base import Format
from .codecs import change_png

_SIDES = (24, 16)


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*_SIDES[::-1], 3), np.uint8)


def _jpegs(folder: Path) -> None:
    image = Image.fromarray(_pixels())
    exif = Image.Exif()
    exif[274] = 6
    exif[271] = "maker"
    image.save(folder / "plain.jpg")
    image.save(folder / "turned.jpg", exif=exif)
    image.save(folder / "progressive.jpg", progressive=True)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "grey.jpg")


def _pngs(folder: Path) -> None:
    image = Image.fromarray(_pixels())
    image.save(folder / "plain.png")
    deep = (np.arange(_SIDES[0] * _SIDES[1]) * 150).astype(np.uint16).reshape(_SIDES[::-1])
    Image.fromarray(deep).save(folder / "deep.png")
    palette = image.quantize(16)
    palette.save(folder / "palette.png", transparency=3)
    image.putalpha(image.convert("L"))
    exif = Image.Exif()
    exif[274] = 8
    image.save(folder / "alpha.png", exif=exif)


def _others(folder: Path) -> None:
    image = Image.fromarray(_pixels())
    exif = Image.Exif()
    exif[274] = 5
    image.save(folder / "a.webp", exif=exif)
    image.save(folder / "lossless.webp", lossless=True)
    frames = [image.quantize(8), image.rotate(90).quantize(8)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], transparency=1)
    image.save(folder / "a.bmp")
    image.save(folder / "a.ppm")
    image.save(folder / "a.tga", compression="tga_rle")
    image.save(folder / "a.ico", sizes=[(16, 16)])
    image.save(folder / "a.jp2")


def _tiffs(folder: Path) -> None:
    image = Image.fromarray(_pixels())
    exif = Image.Exif()
    exif[274] = 6
    image.save(folder / "turned.tiff", exif=exif)
    image.save(folder / "lzw.tiff", compression="tiff_lzw")
    image.save(folder / "jpeg.tiff", compression="jpeg")
    Image.fromarray(_pixels()[..., 0].astype(np.float32)).save(folder / "float.tiff")
    Image.fromarray(_pixels()[..., 0].astype(np.uint16) * 200).save(folder / "deep.tiff")
    image.convert("1").save(folder / "bits.tiff", compression="group4")


def _load(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read_picture(path)
        read_picture(path, 8)
        read_pixels(path, "BGR")
        displayed_size(path)
        displayed_size(path, decode=True)


def _dataset(folder: Path) -> None:
    (folder / "images").mkdir()
    Image.fromarray(_pixels()).save(folder / "images" / "a.jpg")
    size = {"width": _SIDES[0], "height": _SIDES[1]}
    content = {"images": [{"id": 1, "file_name": "a.jpg", **size}], "annotations": []}
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "queries.json").write_text("[]")


def _files(*names: str) -> dict:
    return {name: change_png if name.endswith(".png") else None for name in names}


PICTURES = (
    Format(
        "jpeg",
        _jpegs,
        _files("plain.jpg", "turned.jpg", "progressive.jpg", "cmyk.jpg", "grey.jpg"),
        _load,
    ),
    Format("png", _pngs, _files("plain.png", "deep.png", "palette.png", "alpha.png"), _load),
    Format(
        "tiff",
        _tiffs,
        _files("turned.tiff", "lzw.tiff", "jpeg.tiff", "float.tiff", "deep.tiff", "bits.tiff"),
        _load,
    ),
    Format(
        "other_pictures",
        _others,
        _files(
            *("a.webp", "lossless.webp", "a.gif", "a.bmp", "a.ppm", "a.tga", "a.ico", "a.jp2"),
        ),
        _load,
    ),
    Format("check_dataset", _dataset, {"images/a.jpg": None}, check_dataset),
)
