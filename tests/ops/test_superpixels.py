"""Masks that follow superpixels."""

from __future__ import annotations

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


def test_the_smallest_region_grows_with_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    labels = Superpixels(scale=1, min_size=20, min_size_fraction=0.02)(image)
    assert np.bincount(labels.ravel()).min() >= 200


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="METHOD is 'slic'.*felzenszwalb"):
        Superpixels(method="slic")
    with pytest.raises(ValueError, match=r"uint8, got \(4, 4\)"):
        Superpixels()(np.zeros((4, 4), np.uint8))
