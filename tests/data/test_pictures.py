"""Reading odd pictures, against Pillow's own slow paths and against arithmetic by hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from spil_d2.data import pictures
from spil_d2.data.pictures import Picture, UnreadablePictureError, is_picture_name, read_picture
from spil_d2.utils import picture_files

ORIENTATION = 274


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth colours that differ in all corners."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / (width - 1), 255 * y / (height - 1), np.full(x.shape, 90)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def exif(orientation: int) -> Image.Exif:
    one = Image.Exif()
    one[ORIENTATION] = orientation
    return one


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_as_pillow_shows_it(tmp_path, orientation, suffix) -> None:
    path = tmp_path / f"turned{suffix}"
    picture().save(path, exif=exif(orientation))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = read_picture(path)
    np.testing.assert_array_equal(found.pixels, expected)
    assert (found.width, found.height) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_reduced_picture_keeps_its_displayed_size(tmp_path, orientation, suffix) -> None:
    path = tmp_path / f"large{suffix}"
    picture(1600, 1200).save(path, exif=exif(orientation), quality=95)
    whole, small = read_picture(path), read_picture(path, 300)
    assert (small.width, small.height) == (whole.width, whole.height)
    assert 300 <= max(small.pixels.shape[:2]) < 600
    nearest = np.asarray(
        Image.fromarray(whole.pixels).resize(small.pixels.shape[1::-1], Image.Resampling.BOX)
    )
    assert np.abs(nearest.astype(int) - small.pixels).mean() < 2


def test_boxes_go_to_the_displayed_picture_and_back() -> None:
    one = Picture(np.zeros((50, 100, 3), np.uint8), width=400, height=150)
    boxes = np.array([[10, 20, 50, 40]])
    np.testing.assert_allclose(one.to_displayed(boxes), [[40, 60, 200, 120]])
    np.testing.assert_allclose(one.from_displayed(one.to_displayed(boxes)), boxes)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, suffix) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(read_picture(path).pixels[0, :, 0], [0, 1, 128, 255])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
    ],
)
def test_floats_are_stretched_over_what_they_seem_to_mean(tmp_path, values, expected) -> None:
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([values], np.float32)).save(path)
    np.testing.assert_array_equal(read_picture(path).pixels[0, :, 0], expected)


def test_transparency_is_on_white(tmp_path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 51, 255
    path = tmp_path / "alpha.png"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_picture(path).pixels[0, :, 0], [255, 204, 0])


def test_a_transparent_entry_of_a_palette_is_white(tmp_path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = tmp_path / "palette.png"
    image.save(path, transparency=0)
    np.testing.assert_array_equal(read_picture(path).pixels[0], [[255, 255, 255], [200, 100, 50]])


def test_cmyk_is_converted(tmp_path) -> None:
    path = tmp_path / "cmyk.tif"
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(path)
    np.testing.assert_array_equal(read_picture(path).pixels[0, 0], [255, 0, 0])


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_the_first_frame_stands_for_an_animation(tmp_path, suffix) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    path = tmp_path / f"moving{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    red, green, blue = read_picture(path).pixels[8, 8].tolist()
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_thin_pictures_keep_at_least_one_pixel(tmp_path, size) -> None:
    path = tmp_path / "thin.png"
    Image.new("RGB", size, (9, 8, 7)).save(path)
    found = read_picture(path, 500)
    assert (found.width, found.height) == size
    assert min(found.pixels.shape[:2]) >= 1 and found.pixels[0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK", "I;16"])
def test_strips_make_the_same_picture_as_the_whole(tmp_path, monkeypatch, mode) -> None:
    image = picture(90, 70)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 200)
    path = tmp_path / ("strips.tif" if mode == "CMYK" else "strips.png")
    (image if mode == "I;16" else image.convert(mode)).save(path)
    whole, whole_small = read_picture(path).pixels, read_picture(path, 30).pixels
    monkeypatch.setattr(pictures, "_STRIP_PIXELS", 500)
    np.testing.assert_array_equal(read_picture(path).pixels, whole)
    np.testing.assert_array_equal(read_picture(path, 30).pixels, whole_small)


def test_100_megapixels_are_read_reduced(tmp_path) -> None:
    path = tmp_path / "huge.jpg"
    Image.new("L", (10_000, 10_000), 77).save(path)
    found = read_picture(path, 1000)
    assert (found.width, found.height) == (10_000, 10_000)
    assert found.pixels.shape == (1250, 1250, 3) and np.all(found.pixels == 77)


def damaged(name: str) -> bytes:
    target = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(target, "PNG" if name.endswith("png") else "JPEG")
    return target.getvalue()[: len(target.getvalue()) // 2]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "the file is empty"),
        ("text.png", b"no picture at all", "no known picture format"),
        ("half.jpg", damaged("half.jpg"), "truncated"),
        ("half.png", damaged("half.png"), "truncated"),
        ("program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known"),
        ("photo.heic", b"\0\0\0\x18ftypheic" + bytes(64), "pillow-heif|no known"),
    ],
)
def test_the_reason_why_a_file_is_unreadable_is_told(tmp_path, name, content, reason) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadablePictureError, match=reason) as caught:
        read_picture(path)
    assert str(path) in str(caught.value) and str(path) not in caught.value.reason


def test_missing_files_and_folders_are_unreadable(tmp_path) -> None:
    with pytest.raises(UnreadablePictureError, match="No such file"):
        read_picture(tmp_path / "missing.jpg")
    with pytest.raises(UnreadablePictureError, match="no ordinary file"):
        read_picture(tmp_path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(UnreadablePictureError, match="more than the allowed 178000000"):
        read_picture(path, 100)


def test_our_own_limit_is_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 1000)
    picture(40, 30).save(tmp_path / "a.png")
    with pytest.raises(UnreadablePictureError, match="40x30 pixels are more than"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jpg", True), ("A.JPEG", True), ("b.TIFF", True), ("c.txt", False), ("jpg", False)],
)
def test_pictures_are_known_by_their_names(name, expected) -> None:
    assert is_picture_name(str(Path("x") / name)) is expected
