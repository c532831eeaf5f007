"""Crops of regions: which pixels, at the border, of tiny boxes, and each picture read once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image

from spil_d2.data import region_crops
from spil_d2.data.region_crops import (
    Region,
    RegionCrops,
    crop_region,
    labelled_regions,
    read_region,
    read_regions,
)

SIZE = (12, 8)


def numbered(height: int = 20, width: int = 30) -> np.ndarray:
    """Pixel (y, x) is (y, x, 7)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(y, 7)], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((2.9, 3.9, 10.9, 15.9), (2, 3, 10, 15)),
        ((-5.0, -0.5, 8.0, 12.0), (0, 0, 8, 12)),
        ((22.0, 8.0, 31.7, 20.2), (22, 8, 30, 20)),
        ((4.2, 5.2, 4.3, 5.3), (4, 5, 5, 6)),
        ((4.0, 5.0, 4.0, 5.0), (4, 5, 5, 6)),
        ((50.0, 60.0, 70.0, 80.0), (29, 19, 30, 20)),
        ((-9.0, -9.0, -3.0, -4.0), (0, 0, 1, 1)),
    ],
)
def test_which_pixels(box, pixels) -> None:
    image = numbered()
    x0, y0, x1, y1 = pixels
    same = (y1 - y0, x1 - x0)
    crop = crop_region(image, box, same)
    np.testing.assert_array_equal(crop.numpy().transpose(1, 2, 0), image[y0:y1, x0:x1])
    assert crop_region(image, box, SIZE).shape == (3, *SIZE)


def test_resizing_is_bilinear_with_antialiasing() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    crop = crop_region(image, (10, 4, 50, 36), SIZE).numpy().transpose(1, 2, 0)
    part = Image.fromarray(image[4:36, 10:50]).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    assert np.abs(crop.astype(int) - np.asarray(part)).max() <= 1


@pytest.mark.parametrize("box", [(5, 5, 3, 9), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)])
def test_what_is_no_box_is_refused(box) -> None:
    with pytest.raises(ValueError, match="is not a box"):
        crop_region(numbered(), box, SIZE)


@pytest.fixture
def files(tmp_path) -> list[str]:
    names = []
    for shade in (0, 100):
        path = tmp_path / f"{shade}.png"
        Image.fromarray(numbered() + np.uint8(shade)).save(path)
        names.append(str(path))
    return names


def test_pictures_are_read_once_and_rows_keep_their_order(files, monkeypatch) -> None:
    regions = [
        Region(files[0], (0, 0, 8, 12)),
        Region(files[1], (0, 0, 8, 12)),
        Region(files[0], (10, 4, 18, 16)),
    ]
    expected = torch.stack([read_region(one, SIZE, "RGB") for one in regions])
    opened = []
    read = region_crops.read_pixels
    monkeypatch.setattr(
        region_crops, "read_pixels", lambda name, f: (opened.append(name), read(name, f))[1]
    )
    assert torch.equal(read_regions(regions, SIZE, "RGB"), expected)
    assert opened == files
    rows, crops = RegionCrops(regions, SIZE, "RGB")[0]
    assert rows.tolist() == [0, 2] and torch.equal(crops, expected[[0, 2]])


def test_the_channel_order_is_the_models(files) -> None:
    region = Region(files[1], (0, 0, 8, 12))
    flipped = read_region(region, SIZE, "BGR").flip(0)
    assert torch.equal(read_region(region, SIZE, "RGB"), flipped)


def test_a_broken_picture_is_named(tmp_path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken.jpg is not a readable picture.*check_dataset"):
        read_region(Region(str(tmp_path / "broken.jpg"), (0, 0, 1, 1)), SIZE, "RGB")


def test_annotated_boxes_become_regions() -> None:
    def box(instance_id: int, **more) -> dict:
        return {
            "bbox": [1, 2, 3, 4],
            "bbox_mode": BoxMode.XYWH_ABS,
            "instance_id": instance_id,
            **more,
        }

    gallery = [
        {"file_name": "a", "annotations": [box(5), box(9, iscrowd=1)]},
        {"file_name": "b", "annotations": []},
        {"file_name": "c", "annotations": [box(2)]},
    ]
    regions, labels = labelled_regions(gallery)
    assert regions == [Region("a", (1, 2, 4, 6)), Region("c", (1, 2, 4, 6))]
    assert labels.tolist() == [5, 2] and labels.dtype == np.int64
    assert labelled_regions([])[1].shape == (0,)
