"""GrabCut refinement against pictures whose borders are known."""

import numpy as np
import pytest
from skimage import data, draw

from spil_d2.ops.box_refinement import GrabCutRefinement

TRUTH = np.array([90.0, 60.0, 210.0, 190.0])


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (area - overlap)


@pytest.fixture(scope="module")
def picture():
    """A disc of coffee colours on grass; its box is TRUTH."""
    image = np.ascontiguousarray(data.grass()[:280, :320, None].repeat(3, axis=2))
    x0, y0, x1, y1 = TRUTH.astype(int)
    rows, columns = draw.ellipse((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2, (y1 - y0) / 2, (x1 - x0) / 2)
    image[rows, columns] = data.coffee()[rows, columns] // 2 + np.array([120, 20, 0], np.uint8)
    return image


@pytest.mark.parametrize("error", [(-14, -10, 16, 12), (12, 10, -12, -9), (15, -12, 15, -12)])
def test_a_wrong_border_moves_to_the_object(picture, error):
    box = TRUTH + np.array(error)
    refined = GrabCutRefinement()(picture, box)
    assert iou(refined, TRUTH) > iou(box, TRUTH) + 0.05
    whole = GrabCutRefinement(weight=1.0)(picture, box)
    assert iou(whole, TRUTH) > 0.9


def test_weight_is_a_straight_line_between_both_boxes(picture):
    box = TRUTH + np.array([-14, -10, 16, 12])
    ends = box, GrabCutRefinement(weight=1.0)(picture, box)
    between = GrabCutRefinement(weight=0.25)(picture, box)
    np.testing.assert_allclose(between, 0.75 * ends[0] + 0.25 * ends[1], atol=1e-9)


def test_a_foreground_that_does_not_agree_changes_nothing(picture):
    box = TRUTH + np.array([-14, -10, 16, 12])
    np.testing.assert_array_equal(GrabCutRefinement(min_iou=0.999)(picture, box), box)


def test_the_whole_picture_has_no_background_to_part_from(picture):
    box = np.array([0.0, 0.0, 320.0, 280.0])
    np.testing.assert_array_equal(GrabCutRefinement()(picture, box), box)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (318.4, 278.2, 320, 280), (0, 100, 320, 102)])
def test_tiny_and_flat_boxes_stay_inside(picture, box):
    refined = GrabCutRefinement()(picture, np.array(box, np.float32))
    assert (refined[:2] >= 0).all() and (refined[2:] <= [320, 280]).all()
    assert (refined[2:] > refined[:2]).all()


def test_equal_input_gives_equal_output(picture):
    box = TRUTH + np.array([-14, -10, 16, 12])
    first = GrabCutRefinement()(picture, box)
    GrabCutRefinement()(picture, TRUTH)
    np.testing.assert_array_equal(GrabCutRefinement()(picture, box), first)


@pytest.mark.parametrize("height", range(233, 240))
def test_an_object_at_the_border_does_not_leave_the_picture(height):
    rng = np.random.default_rng(height)
    image = rng.integers(0, 40, (height, 320, 3), dtype=np.uint8)
    image[150:, 40:110] = rng.integers(200, 255, (height - 150, 70, 3), dtype=np.uint8)
    refined = GrabCutRefinement()(image, np.array([45.0, 160.0, 100.0, height]))
    assert (refined >= 0).all() and (refined <= [320, height, 320, height]).all()
