"""Boxes, masks and rank lists drawn on pictures.

Pictures are (H, W, 3) uint8 **RGB**; boxes are XYXY_ABS in pixels of the picture that is given.
Every function returns a new array and keeps no state. A picture is shrunk *before* lines are
drawn, so that they stay readable at thumbnail size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from ..structures import Box

Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_HALO: Colour = (20, 20, 20)
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (30, 34, 40)


class BoxKind(Enum):
    """What a box is, as (label, RGB colour, width relative to the final box, dashed).

    The colours are Okabe and Ito's, told apart by colour-blind readers; the line style says the
    same again without colour.
    """

    QUERY = ("query", (86, 180, 233), 1.0, False)
    SEARCH = ("search box", (230, 159, 0), 1.0, True)
    FINAL = ("final box", (0, 200, 140), 1.0, False)
    GROUND_TRUTH = ("ground truth", (255, 255, 255), 0.5, False)

    def __init__(self, label: str, colour: Colour, weight: float, dashed: bool) -> None:
        self.label = label
        self.colour = colour
        self.weight = weight
        self.dashed = dashed


@dataclass(frozen=True)
class StripEntry:
    """One gallery image of a strip.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        search_box, final_box: before and after localization; None where there is none.
        gt_boxes: the instance's boxes, where they are known.
        mask: (H, W) bool, the final box's mask.
        is_relevant: whether the image shows the instance; None where it is not known.
        caption: a short line of ASCII text under the image.
    """

    image: np.ndarray
    search_box: Box | None = None
    final_box: Box | None = None
    gt_boxes: Sequence[Box] = ()
    mask: np.ndarray | None = None
    is_relevant: bool | None = None
    caption: str = ""

    @property
    def drawn_boxes(self) -> list[tuple[Box, BoxKind]]:
        """What is drawn, the most important box last."""
        boxes = [(box, BoxKind.GROUND_TRUTH) for box in self.gt_boxes]
        if self.search_box is not None:
            boxes.append((self.search_box, BoxKind.SEARCH))
        if self.final_box is not None:
            boxes.append((self.final_box, BoxKind.FINAL))
        return boxes


def draw_boxes(
    image: np.ndarray, boxes: Sequence[tuple[Box, BoxKind]], max_side: int | None = None
) -> np.ndarray:
    """Draw boxes, later ones on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (box in pixels of `image`, its kind).
        max_side: shrink the picture to this many pixels on its longer side first; None keeps it.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: for a picture that is not (H, W, 3) uint8.
    """
    canvas, scale = _shrink(image, max_side)
    width = max(2, round(max(canvas.shape[:2]) / 110))
    for box, kind in boxes:
        _draw_box(canvas, np.asarray(box, np.float64) * scale, kind, width)
    return canvas


def draw_mask(
    image: np.ndarray,
    mask: np.ndarray,
    colour: Colour = BoxKind.FINAL.colour,
    opacity: float = 0.4,
) -> np.ndarray:
    """Tint the pixels of a mask and draw its outline.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, of the same size.
        colour: RGB.
        opacity: of the tint, 0 (invisible) to 1.

    Raises:
        ValueError: where the sizes differ, or the picture is not (H, W, 3) uint8.
    """
    _check(image)
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} on a picture of {image.shape[:2]}")
    canvas, inside = image.copy(), mask.astype(bool)
    tinted = (1 - opacity) * canvas[inside] + opacity * np.array(colour)
    canvas[inside] = np.rint(tinted).astype(np.uint8)
    outline, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outline, -1, colour, max(1, round(max(mask.shape) / 300)))
    return canvas


def draw_entry(entry: StripEntry, max_side: int | None = None) -> np.ndarray:
    """A gallery image with its mask and boxes, shrunk to `max_side`; no caption or mark."""
    image = entry.image if entry.mask is None else draw_mask(entry.image, entry.mask)
    return draw_boxes(image, entry.drawn_boxes, max_side)


def legend(kinds: Sequence[BoxKind] = tuple(BoxKind), height: int = 26) -> np.ndarray:
    """A line that explains the boxes, (height, W, 3) uint8 RGB on white."""
    text_scale, sample, gap = height / 52, height, height // 3
    widths = [cv2.getTextSize(k.label, _FONT, text_scale, 1)[0][0] for k in kinds]
    canvas = _blank(height, sum(widths) + len(widths) * (sample + 3 * gap) + gap)
    x = gap
    for kind, text_width in zip(kinds, widths, strict=True):
        box = np.array([x, height * 0.25, x + sample, height * 0.75])
        _draw_box(canvas, box, kind, max(2, height // 12))
        x += sample + gap
        _write(canvas, kind.label, (x, round(height * 0.66)), text_scale)
        x += text_width + 2 * gap
    return canvas


def rank_list_strip(
    query_image: np.ndarray, query_box: Box, entries: Sequence[StripEntry], side: int = 200
) -> np.ndarray:
    """The query and its results in one row, with captions, marks and a legend.

    A relevant image carries a tick, a wrong one a cross, in its corner; an image of which it is
    not known carries neither.

    Args:
        query_image: (H, W, 3) uint8 RGB.
        query_box: XYXY_ABS in pixels of `query_image`.
        entries: gallery images, best first.
        side: each picture fits into a square of this many pixels.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    query = draw_boxes(query_image, [(query_box, BoxKind.QUERY)], side)
    results = [_marked(draw_entry(entry, side), entry.is_relevant, side) for entry in entries]
    pictures = [query, *results]
    height = max(picture.shape[0] for picture in pictures)
    captions = ["query", *(entry.caption for entry in entries)]
    tiles = [_tile(one, side, height, text) for one, text in zip(pictures, captions, strict=True)]
    row = np.concatenate(tiles, axis=1)
    key = legend()
    width = max(row.shape[1], key.shape[1])
    return np.concatenate([_pad_right(row, width), _pad_right(key, width)], axis=0)


def _draw_box(canvas: np.ndarray, box: np.ndarray, kind: BoxKind, width: int) -> None:
    width = max(1, round(width * kind.weight))
    # Half a line inwards, or a box along the border of the picture would show half its width.
    limit = np.array([canvas.shape[1], canvas.shape[0]] * 2) - 1
    inset = width // 2
    x0, y0, x1, y1 = np.clip(np.rint(box), inset, limit - inset).astype(int).tolist()
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))
    for colour, thickness in ((_HALO, width + 2), (kind.colour, width)):
        for start, end in sides:
            for a, b in _dashes(start, end, 5 * width) if kind.dashed else [(start, end)]:
                cv2.line(canvas, a, b, colour, thickness, cv2.LINE_AA)


def _dashes(
    start: tuple[int, int], end: tuple[int, int], length: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    a, b = np.array(start, float), np.array(end, float)
    # An odd number of pieces puts a dash at both corners.
    pieces = max(1, int(np.hypot(*(b - a)) / length)) // 2 * 2 + 1
    points = [tuple(np.rint(a + (b - a) * i / pieces).astype(int).tolist()) for i in range(pieces)]
    points.append(end)
    return [(points[i], points[i + 1]) for i in range(0, pieces, 2)]


def _marked(picture: np.ndarray, is_relevant: bool | None, side: int) -> np.ndarray:
    """The picture with a tick or a cross in its upper left corner."""
    if is_relevant is None:
        return picture
    canvas, size = picture.copy(), max(14, side // 9)
    centre, radius = (size // 2 + 4, size // 2 + 4), size // 2
    colour: Colour = (0, 114, 90) if is_relevant else (196, 48, 43)
    cv2.circle(canvas, centre, radius + 2, _PAPER, -1, cv2.LINE_AA)
    cv2.circle(canvas, centre, radius, colour, -1, cv2.LINE_AA)
    tick = [(-0.5, 0.05), (-0.1, 0.45), (0.5, -0.4)]
    cross = [(-0.4, -0.4), (0.4, 0.4)], [(-0.4, 0.4), (0.4, -0.4)]
    for stroke in [tick] if is_relevant else cross:
        points = np.array([[centre[0] + x * radius, centre[1] + y * radius] for x, y in stroke])
        shape = np.rint(points).astype(np.int32)
        cv2.polylines(canvas, [shape], False, _PAPER, max(2, size // 9), cv2.LINE_AA)
    return canvas


def _tile(picture: np.ndarray, side: int, row_height: int, caption: str) -> np.ndarray:
    margin, text_height = max(4, side // 40), max(18, side // 9)
    tile = _blank(row_height + text_height + margin, side + 2 * margin)
    height, width = picture.shape[:2]
    top, left = margin + row_height - height, margin + (side - width) // 2
    tile[top : top + height, left : left + width] = picture
    scale = text_height / 46
    while caption and cv2.getTextSize(caption, _FONT, scale, 1)[0][0] > side:
        caption = caption[:-1]
    _write(tile, caption, (margin, row_height + margin + round(text_height * 0.7)), scale)
    return tile


def _write(canvas: np.ndarray, text: str, origin: tuple[int, int], scale: float) -> None:
    cv2.putText(canvas, text, origin, _FONT, scale, _INK, 1, cv2.LINE_AA)


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _pad_right(picture: np.ndarray, width: int) -> np.ndarray:
    missing = _blank(picture.shape[0], width - picture.shape[1])
    return np.concatenate([picture, missing], axis=1)


def _shrink(image: np.ndarray, max_side: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A copy of at most `max_side` pixels, and its (4,) scale for boxes."""
    _check(image)
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image.copy(), np.ones(4)
    ratio = max_side / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, np.array([size[0] / width, size[1] / height] * 2)


def _check(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"pictures are (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}; read them with "
            "detectron2.data.detection_utils.read_image(path, 'RGB')"
        )
