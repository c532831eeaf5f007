"""Query crops against the geometry by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2 import get_cfg
from spil_d2.data.crops import CropGeometry, WholePicture, build_query_geometry


def _ramp(height: int, width: int) -> np.ndarray:
    """Red is the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.full_like(rows, 200)], axis=2).astype(np.uint8)


def test_the_long_side_fills_the_crop_up_to_its_context() -> None:
    crop, inside = CropGeometry(size=96, context=8).crop(_ramp(120, 160), (40.0, 50.0, 80.0, 70.0))
    assert crop.shape == (96, 96, 3) and crop.dtype == np.uint8
    # 40 px become 96 - 2 * 8 = 80; the short side, 20 px, becomes 40 in the middle.
    np.testing.assert_allclose(inside, [8, 28, 88, 68])


def test_pixels_come_from_where_the_geometry_says() -> None:
    box = (40.0, 50.0, 80.0, 70.0)
    crop, _ = CropGeometry(size=96, context=8).crop(_ramp(120, 160), box)
    for u, v in ((10, 10), (47, 48), (90, 70)):
        # Pixel centres at +0.5, scale 2, the box's centre (60, 60) at the crop's (48, 48).
        x, y = (u + 0.5 - 48) / 2 + 60 - 0.5, (v + 0.5 - 48) / 2 + 60 - 0.5
        np.testing.assert_allclose(crop[v, u, :2], [x, y], atol=1)


def test_tight_crops_stretch_the_box() -> None:
    geometry = CropGeometry(size=96, context=8, shape="tight")
    crop, inside = geometry.crop(_ramp(120, 160), (40.0, 50.0, 80.0, 70.0))
    np.testing.assert_allclose(inside, [8, 8, 88, 88])
    np.testing.assert_allclose(crop[48, 48, :2], [60, 60], atol=1)


def test_outside_the_picture_is_zero() -> None:
    crop, inside = CropGeometry(size=96, context=8).crop(_ramp(120, 160), (0.0, 0.0, 40.0, 40.0))
    assert (crop[:7] == 0).all() and (crop[:, :7] == 0).all()
    assert (crop[9:, 9:, 2] == 200).all()
    np.testing.assert_allclose(inside, [8, 8, 88, 88])


def test_shrinking_does_not_alias() -> None:
    """Stripes of one pixel become grey, not stripes."""
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    crop, _ = CropGeometry(size=64, context=0).crop(stripes, (0.0, 0.0, 400.0, 400.0))
    inner = crop[8:-8, 8:-8].astype(float)
    assert abs(inner.mean() - 127.5) < 3 and inner.std() < 3


def test_a_box_thinner_than_a_pixel_is_a_pixel() -> None:
    crop, inside = CropGeometry(size=32, context=4).crop(_ramp(20, 20), (5.0, 5.0, 5.2, 5.1))
    assert np.isfinite(inside).all() and crop.any()


@pytest.mark.parametrize(
    "arguments", [{"shape": "round"}, {"size": 32, "context": 16}, {"size": 32, "context": -1}]
)
def test_impossible_geometries_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="crop shape"):
        CropGeometry(**arguments)


def test_a_whole_picture_keeps_everything_and_scales_the_box() -> None:
    picture, inside = WholePicture(60, 1000).crop(_ramp(120, 160), (40.0, 50.0, 80.0, 70.0))
    assert picture.shape == (60, 80, 3) and picture.dtype == np.uint8
    np.testing.assert_allclose(inside, [20, 25, 40, 35])
    # Half the size: pixel (u, v) covers the columns 2u and 2u + 1.
    np.testing.assert_allclose(picture[29, 39, :2], [2 * 39 + 0.5, 2 * 29 + 0.5], atol=1)
    # The longer side counts where it would become too long.
    assert WholePicture(60, 40).crop(_ramp(120, 160), (0.0, 0.0, 8.0, 8.0))[0].shape == (30, 40, 3)


def test_the_configuration_decides_between_crops_and_whole_pictures() -> None:
    cfg = get_cfg()
    assert build_query_geometry(cfg) == CropGeometry(320, 16, "square")
    cfg.MODEL.QUERY.FORMAT = "image"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 600, 900
    assert build_query_geometry(cfg) == WholePicture(600, 900)
    cfg.MODEL.QUERY.FORMAT = "canvas"
    with pytest.raises(ValueError, match="MODEL.QUERY.FORMAT is 'canvas'.*image"):
        build_query_geometry(cfg)
