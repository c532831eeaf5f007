"""Masks that follow superpixels."""

from __future__ import annotations

import re

import numpy as np
import pytest

from spil_d2.ops import superpixels as module
from spil_d2.ops.superpixels import Superpixels


@pytest.fixture
def halves() -> np.ndarray:
    image = np.full((60, 80, 3), 30, np.uint8)
    image[:, 40:] = (200, 60, 10)
    return image


@pytest.mark.parametrize("method", ["felzenszwalb", "felzenszwalb_skimage"])
def test_two_colours_are_two_regions(method: str, halves: np.ndarray) -> None:
    labels = Superpixels(method=method, sigma=0.1)(halves)
    assert labels.dtype == np.int32 and labels.shape == (60, 80)
    assert len(np.unique(labels[:, :38])) == 1 and len(np.unique(labels[:, 42:])) == 1
    assert labels[0, 0] != labels[0, 79]
    assert sorted(np.unique(labels)) == list(range(labels.max() + 1))


def test_without_the_contrib_build_scikit_image_is_taken(
    halves: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module.cv2, "ximgproc", raising=False)
    expected = Superpixels(method="felzenszwalb_skimage")(halves)
    np.testing.assert_array_equal(Superpixels()(halves), expected)


@pytest.mark.parametrize("method", ["felzenszwalb", "felzenszwalb_skimage"])
def test_the_smallest_region_grows_with_the_picture(method: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 200, 3), dtype=np.uint8)
    labels = Superpixels(method=method, scale=1, min_size=20, min_size_fraction=0.02)(image)
    assert 200 <= np.bincount(labels.ravel()).min() < 400


@pytest.mark.parametrize("method", ["felzenszwalb", "felzenszwalb_skimage"])
def test_a_larger_scale_means_larger_regions(method: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    counts = [Superpixels(method, scale, min_size=2)(image).max() for scale in (1, 100, 2000)]
    assert counts[0] > 1.5 * counts[1] > 2 * counts[2]


def test_opencv_is_taken_where_it_has_the_contrib_build() -> None:
    if not hasattr(module.cv2, "ximgproc"):
        pytest.skip("OpenCV without its contrib build")
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    graph = module.cv2.ximgproc.segmentation.createGraphSegmentation(1.3, 300.0, 30)
    expected = graph.processImage(image)
    found = Superpixels(scale=300.0, sigma=1.3, min_size=30)(image)
    np.testing.assert_array_equal(found, expected)
    other = Superpixels("felzenszwalb_skimage", scale=300.0, sigma=1.3, min_size=30)(image)
    assert not np.array_equal(found, other)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="METHOD is 'slic'.*felzenszwalb"):
        Superpixels(method="slic")
    for shape, dtype in (((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match=re.escape(f"uint8, got {shape} {np.dtype(dtype)}")):
            Superpixels()(np.zeros(shape, dtype))
