"""Filters and overlaps of boxes against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.ops.numpy_boxes import BoxFilter, clip_boxes, paired_iou

BOXES = np.array(
    [
        [0, 0, 100, 50],  # the picture
        [0, 0, 10, 10],
        [0, 0, 9, 30],
        [0, 0, 90, 10],
        [20, 20, 40, 40],
    ],
    np.float32,
)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"min_side": 10}, [0, 1, 3, 4]),
        ({"max_aspect": 2}, [0, 1, 4]),
        ({"max_area": 0.9}, [1, 2, 3, 4]),
        ({"min_area": 0.08}, [0, 3, 4]),
        ({"max_aspect": 1}, [1, 4]),
        ({"min_area": 0.08, "max_area": 0.08}, [4]),
        ({"min_side": 20, "max_aspect": 2}, [0, 4]),
    ],
)
def test_each_limit_includes_its_own_value(settings: dict, kept: list[int]) -> None:
    assert np.flatnonzero(BoxFilter(**settings).keeps(BOXES, 100, 50)).tolist() == kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_side": 0}, "^the least side of a box is > 0 pixels, got 0"),
        ({"max_aspect": 0.5}, r"^the largest aspect is 0 \(all\) or at least 1, got 0.5"),
        (
            {"min_area": 0.5, "max_area": 0.1},
            "^areas are parts of the picture with 0 <= .* got 0.5",
        ),
        ({"max_area": 1.5}, "^areas are parts .* <= max_area <= 1, got 0.0 and 1.5"),
    ],
)
def test_limits_that_make_no_sense_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxFilter(**settings)


def test_clipping_cuts_at_the_borders() -> None:
    clipped = clip_boxes(np.array([[-5, -5, 50, 200], [120, 10, 130, 20]]), 100, 50)
    assert clipped.tolist() == [[0, 0, 50, 50], [100, 10, 100, 20]]
    assert clipped.dtype == np.float32
    none = clip_boxes([], 100, 50)
    assert none.shape == (0, 4) and none.dtype == np.float32


def test_iou_of_pairs() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [5, 5, 5, 5]], np.float32)
    assert paired_iou(a, b).tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_iou_of_parts_of_a_pixel() -> None:
    a = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
    b = np.array([[0.25, 0, 0.75, 0.5], [3, 3, 3.5, 3.5]])
    assert paired_iou(a, b).tolist() == pytest.approx([1 / 3, 0])
