"""GrabCut refinement against pictures whose borders are known."""

from __future__ import annotations

from collections.abc import Callable

import cv2
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
    assert refined.dtype == np.float64
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


@pytest.mark.parametrize("box", [(20, 0, 21, 1000), (30, 2, 30.4, 3), (0, 0, 0.1, 0.1)])
def test_a_strip_without_a_border_stays(box: tuple[float, ...]) -> None:
    tall = np.random.default_rng(0).integers(0, 255, (1000, 60, 3), dtype=np.uint8)
    assert GrabCutRefinement()(tall, np.array(box)).tolist() == list(box)


def test_where_the_box_lies_in_the_picture_does_not_matter() -> None:
    large = np.random.default_rng(0).integers(0, 60, (300, 340, 3), dtype=np.uint8)
    large[150:190, 170:230] += 120
    box = np.array([166.0, 152.0, 226.0, 196.0])
    here = GrabCutRefinement()(large, box)
    assert not np.array_equal(here, box)
    moved = GrabCutRefinement()(large[100:, 120:], box - [120, 100, 120, 100])
    np.testing.assert_allclose(moved + [120, 100, 120, 100], here, rtol=1e-12)


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How each window was interpolated."""
    used, resize = [], cv2.resize

    def spy(*args: object, **kwargs: int) -> np.ndarray:
        used.append(kwargs["interpolation"])
        return resize(*args, **kwargs)

    monkeypatch.setattr(cv2, "resize", spy)
    return used


@pytest.mark.parametrize(
    ("side", "interpolation"),
    [(160, cv2.INTER_LINEAR), (87, cv2.INTER_LINEAR), (40, cv2.INTER_AREA)],
)
def test_only_what_shrinks_is_averaged(side: int, interpolation: int, resized: list[int]) -> None:
    # The window is 44 cells wide and high.
    image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    GrabCutRefinement(side=side)(image, np.array([40.0, 40.0, 60.0, 60.0]))
    assert resized == [interpolation]


@pytest.mark.parametrize(
    ("width", "height", "side", "is_enough"),
    [(2, 8, 8, True), (8, 2, 8, True), (2, 8, 7, False), (1, 4, 100, False), (4, 1, 100, False)],
)
def test_a_window_has_two_pixels_and_two_cells(
    width: int, height: int, side: int, is_enough: bool, resized: list[int]
) -> None:
    box = np.array([10, 10, 10 + width, 10 + height])
    refined = GrabCutRefinement(side=side, context=0.0)(np.zeros((40, 40, 3), np.uint8), box)
    assert len(resized) == is_enough and refined.tolist() == box.tolist()


Parts = list[tuple[int, int, int, int]]


@pytest.fixture
def foreground(monkeypatch: pytest.MonkeyPatch) -> Callable[[Parts], list[np.ndarray]]:
    """Puts rectangles in the place of what GrabCut finds, and keeps the labels it was given."""

    def answer(parts: Parts) -> list[np.ndarray]:
        given: list[np.ndarray] = []

        def fake(pixels: np.ndarray, labels: np.ndarray, *_: object, mode: int) -> None:
            assert mode == cv2.GC_INIT_WITH_MASK
            given.append(labels.copy())
            labels[:] = cv2.GC_BGD
            for place, (x0, y0, x1, y1) in enumerate(parts):
                labels[y0:y1, x0:x1] = (cv2.GC_FGD, cv2.GC_PR_FGD)[place % 2]

        monkeypatch.setattr(cv2, "grabCut", fake)
        return given

    return answer


@pytest.mark.parametrize("box", [(7, 33, 17, 53), (0, 0, 8, 6), (24, 66, 30, 70), (3, 41, 7, 45)])
def test_grabcut_starts_from_what_the_rectangles_around_the_box_say(
    box: tuple[int, ...], foreground: Callable
) -> None:
    given = foreground([(0, 0, 1, 1)])
    image = np.zeros((70, 30, 3), np.uint8)
    # A context of half a side more on each side, cut at the picture; one cell is one pixel.
    x0, y0, x1, y1 = box
    w, h = x1 - x0, y1 - y0
    left, top = max(x0 - w // 2, 0), max(y0 - h // 2, 0)
    right, bottom = min(x1 + w // 2, 30), min(y1 + h // 2, 70)
    refinement = GrabCutRefinement(
        side=max(right - left, bottom - top), context=0.5, rim=0.25, core=0.5
    )
    refinement(image, np.array(box))
    expected = np.full((bottom - top, right - left), cv2.GC_BGD)
    for y in range(top, bottom):
        for x in range(left, right):
            for part, label in (
                (0.25, cv2.GC_PR_BGD),
                (0.0, cv2.GC_PR_FGD),
                (-0.25, cv2.GC_FGD),
            ):
                in_x = x + 1 > x0 - part * w and x < x1 + part * w
                if in_x and y + 1 > y0 - part * h and y < y1 + part * h:
                    expected[y - top, x - left] = label
    np.testing.assert_array_equal(given[0], expected)


TALL = np.array([40.0, 30.0, 60.0, 54.0])
"""With half a side more around it, the window is 40 x 48 cells from (30, 18)."""


def test_the_largest_part_of_the_foreground_counts_if_it_agrees_with_the_box(
    foreground: Callable,
) -> None:
    foreground([(0, 0, 3, 3), (12, 9, 34, 33)])
    image = np.zeros((100, 100, 3), np.uint8)
    # 18 x 21 pixels are common to boxes of 20 x 24 and 22 x 24.
    for min_iou, expected in (
        (378 / 630, [42.0, 27.0, 64.0, 51.0]),
        (np.nextafter(378 / 630, 1), TALL.tolist()),
    ):
        refinement = GrabCutRefinement(side=48, context=0.5, min_iou=min_iou, weight=1.0)
        assert refinement(image, TALL).tolist() == expected


def test_a_foreground_apart_from_the_box_does_not_agree(foreground: Callable) -> None:
    foreground([(0, 0, 4, 4)])
    refinement = GrabCutRefinement(side=48, context=0.5, min_iou=0.001)
    assert refinement(np.zeros((100, 100, 3), np.uint8), TALL).tolist() == TALL.tolist()


def test_a_box_without_a_core_says_nothing_sure(foreground: Callable) -> None:
    given = foreground([(12, 9, 34, 33)])
    refinement = GrabCutRefinement(side=48, context=0.5, core=0.0)
    assert refinement(np.zeros((100, 100, 3), np.uint8), TALL).tolist() == TALL.tolist()
    assert not given
