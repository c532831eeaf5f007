"""Drawn pictures: boxes, masks, rows."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from spil_d2.engine.visualize import (
    BoxKind,
    StripEntry,
    draw_boxes,
    draw_entry,
    draw_mask,
    legend,
    rank_list_strip,
)


def _grey(height: int = 120, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_box_is_drawn_in_its_rgb_colour_on_its_border_only() -> None:
    image = _grey()
    drawn = draw_boxes(image, [((40, 30, 120, 90), BoxKind.FINAL)])
    assert tuple(drawn[30, 80]) == BoxKind.FINAL.colour
    assert tuple(drawn[60, 40]) == BoxKind.FINAL.colour
    np.testing.assert_array_equal(drawn[45:75, 55:105], 128)
    np.testing.assert_array_equal(drawn[:20], 128)
    np.testing.assert_array_equal(image, _grey())


def test_search_box_is_dashed_and_starts_and_ends_with_a_dash() -> None:
    drawn = draw_boxes(_grey(), [((20, 30, 140, 90), BoxKind.SEARCH)])
    on = np.all(drawn[30, 20:141] == BoxKind.SEARCH.colour, axis=1)
    assert on[2] and on[-3]
    assert 0.3 < on.mean() < 0.9


def test_later_boxes_are_on_top() -> None:
    box = (40, 30, 120, 90)
    drawn = draw_entry(StripEntry(_grey(), search_box=box, final_box=box, gt_boxes=[box]))
    assert tuple(drawn[30, 80]) == BoxKind.FINAL.colour


def test_boxes_follow_the_picture_when_it_is_shrunk() -> None:
    drawn = draw_boxes(_grey(400, 800), [((200, 100, 600, 300), BoxKind.QUERY)], max_side=200)
    assert drawn.shape == (100, 200, 3)
    assert tuple(drawn[25, 100]) == BoxKind.QUERY.colour
    assert tuple(drawn[50, 150]) == BoxKind.QUERY.colour


def test_box_along_the_border_stays_visible() -> None:
    drawn = draw_boxes(_grey(), [((-5, 0, 300, 120), BoxKind.FINAL)])
    # At least the line's width of 2 on each side.
    for edge in (drawn[:3, 80], drawn[-3:, 80], drawn[60, :3], drawn[60, -3:]):
        assert np.count_nonzero(np.all(edge == BoxKind.FINAL.colour, axis=1)) >= 2


def test_mask_tints_its_inside() -> None:
    mask = np.zeros((120, 160), bool)
    mask[30:90, 40:120] = True
    drawn = draw_mask(_grey(), mask, (255, 0, 0), opacity=0.5)
    assert drawn[60, 80].tolist() == [192, 64, 64]
    assert drawn[10, 10].tolist() == [128, 128, 128]
    with pytest.raises(ValueError, match="mask of"):
        draw_mask(_grey(), mask[:50])


def test_strip_has_one_tile_a_picture_and_marks_right_and_wrong_by_shape() -> None:
    def make(is_relevant: bool | None) -> np.ndarray:
        entry = StripEntry(data.astronaut(), (100, 50, 300, 300), is_relevant=is_relevant)
        return rank_list_strip(data.rocket(), (300, 20, 360, 400), [entry] * 3, side=150)

    unknown, right, wrong = make(None), make(True), make(False)
    margin = 4
    assert unknown.shape == right.shape == wrong.shape
    assert unknown.shape[1] >= 4 * (150 + 2 * margin)
    # The white strokes of the two marks differ, not just their colours.
    corner = (slice(margin, 30), slice(158, 190))
    tick, cross = (np.all(one[corner] == 255, axis=2) for one in (right, wrong))
    assert np.count_nonzero(tick ^ cross) > 10
    assert np.array_equal(unknown[:, :158], right[:, :158])


def test_strip_without_results_shows_the_query_and_the_legend() -> None:
    strip = rank_list_strip(_grey(), (10, 10, 50, 50), [], side=100)
    assert strip.shape[1] == legend().shape[1]


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_boxes(np.zeros((10, 10)), [])
    with pytest.raises(ValueError, match="float64"):
        draw_boxes(np.zeros((10, 10, 3)), [])
