"""Typed access to the fields of one JSON record; what is wrong is collected, not raised."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...structures.rle import check_rle
from ...utils.reading import is_printable, printable, shown

# COCO files round boxes to 0.01 pixel and some tools add half a pixel at the border.
BOX_TOLERANCE = 0.5
MAX_ID = 2**53
"""Ids are kept in arrays, some of them of double precision."""
MAX_SIDE = 1_000_000
"""Of a picture, in pixels; larger numbers are mistakes."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data set.

    Attributes:
        file: the file that is wrong, absolute.
        record: the record in it, for example `annotations[3] (id 7)`.
        message: what is wrong, with the value seen and what is allowed.
    """

    file: str
    record: str
    message: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.record}: {self.message}")


class DatasetError(ValueError):
    """A data set that cannot be loaded; the message names the file and the record."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that an array can hold; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MAX_ID if isinstance(value, int) else math.isfinite(value)


def label(kind: str, index: int, item: Any) -> str:
    """The name of a record: its list, its place there and, where it has one, its id."""
    known = item["id"] if isinstance(item, dict) and "id" in item else ()
    is_plain = isinstance(known, (str, int, float))
    return f"{kind}[{index}] (id {known!s:.40})" if is_plain else f"{kind}[{index}]"


class FieldReader:
    """Reads the fields of one record and appends what is wrong to a list of problems.

    Every reading method returns None after it has noted a problem.
    """

    def __init__(self, file: Path, record: str, item: Any, problems: list[Problem]) -> None:
        """
        Args:
            file: the JSON file, for the messages.
            record: the name of the record in it, for the messages.
            item: the parsed record, normally a dict.
            problems: what is wrong is appended here.
        """
        self.file = file
        self.record = record
        self._problems = problems
        self._item: dict[str, Any] = item if isinstance(item, dict) else {}
        self._is_object = isinstance(item, dict)
        if not self._is_object:
            self.problem(f"must be an object {{...}}, found {shown(item)}")

    def problem(self, message: str) -> None:
        """Note what is wrong with the record."""
        self._problems.append(Problem(str(self.file), self.record, message))

    def _missing(self, key: str) -> None:
        if self._is_object:
            self.problem(f"key {key!r} is missing")

    def list_of(self, key: str, required: bool = True) -> list[Any]:
        """The list at `key`; empty where it is missing or not a list."""
        if key not in self._item:
            if required:
                self._missing(key)
            return []
        value = self._item[key]
        if not isinstance(value, list):
            self.problem(f"{key} must be a list, found {shown(value)}")
            return []
        return value

    def text(self, key: str) -> str | None:
        """The non-empty text at `key`."""
        if key not in self._item:
            self._missing(key)
            return None
        value = self._item[key]
        if not isinstance(value, str) or not value:
            self.problem(f"{key} must be a non-empty text, found {shown(value)}")
            return None
        if not is_printable(value):
            self.problem(f"{key} holds characters that are none, found {shown(value)}")
            return None
        return value

    def integer(
        self,
        key: str,
        default: int | None = None,
        nullable: bool = False,
        allowed: Collection[int] | None = None,
    ) -> int | None:
        """The integer at `key`; with `nullable`, a missing or null value is None and right."""
        if key not in self._item:
            if default is not None or nullable:
                return default
            self._missing(key)
            return None
        value = self._item[key]
        if value is None and nullable:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.problem(f"{key} must be an integer, found {shown(value)}")
            return None
        if abs(value) > MAX_ID:
            self.problem(f"{key} is {shown(value)}, allowed are numbers up to {MAX_ID}")
            return None
        if allowed is not None and value not in allowed:
            self.problem(f"{key} is {value}, allowed: {sorted(allowed)}")
            return None
        return value

    def unique_id(self, seen: dict[int, str]) -> int | None:
        """The `id`, which no earlier record in `seen` (id -> record) may have; adds itself."""
        value = self.integer("id")
        if value is None:
            return None
        if value in seen:
            self.problem(f"id {value} is already that of {seen[value]}")
            return None
        seen[value] = self.record
        return value

    def known(self, key: str, value: int, ids: Collection[int]) -> None:
        """Note an id that a list of annotations.json does not have."""
        if value not in ids:
            list_name = {"image_id": "images", "instance_id": "instances"}[key]
            self.problem(f"{key} {value} is not in the list {list_name!r} of annotations.json")

    def size(self) -> tuple[int, int] | None:
        """(width, height) in pixels, both from 1 to `MAX_SIDE`."""
        size = [self.integer("width"), self.integer("height")]
        for key, value in zip(("width", "height"), size):
            if value is not None and value < 1:
                self.problem(f"{key} must be at least 1 pixel, found {value}")
            elif value is not None and value > MAX_SIDE:
                self.problem(f"{key} must be at most {MAX_SIDE} pixels, found {value}")
        width, height = size
        if width is None or height is None or not 1 <= min(size) <= max(size) <= MAX_SIDE:
            return None
        return width, height

    def box(self, size: tuple[int, int] | None) -> tuple[float, float, float, float] | None:
        """The `bbox`, XYWH in pixels, clipped to the picture.

        Args:
            size: (width, height) of the picture; None skips the comparison with it.
        """
        if "bbox" not in self._item:
            self._missing("bbox")
            return None
        value = self._item["bbox"]
        if not (isinstance(value, list) and len(value) == 4 and all(map(is_number, value))):
            self.problem(f"bbox must be four numbers [x, y, w, h], found {shown(value)}")
            return None
        x, y, w, h = (float(v) for v in value)
        if w <= 0 or h <= 0:
            self.problem(f"bbox {value} is empty: w and h must be above 0")
            return None
        if size is None:
            return x, y, w, h
        outside = max(-x, -y, x + w - size[0], y + h - size[1])
        if outside > BOX_TOLERANCE:
            self.problem(
                f"bbox {value} lies {outside:.2f} px outside the picture of {size[0]}x{size[1]} "
                f"pixels (at most {BOX_TOLERANCE} px is clipped)"
            )
            return None
        x0, y0 = max(x, 0.0), max(y, 0.0)
        x1, y1 = min(x + w, float(size[0])), min(y + h, float(size[1]))
        if x1 <= x0 or y1 <= y0:
            self.problem(f"bbox {value} is empty after clipping to {size[0]}x{size[1]}")
            return None
        return x0, y0, x1 - x0, y1 - y0

    def segmentation(
        self, size: tuple[int, int] | None
    ) -> list[list[float]] | dict[str, Any] | None:
        """The optional `segmentation`: polygons or RLE; None where there is none.

        Args:
            size: (width, height) of the picture; None skips the comparison with it.
        """
        value = self._item.get("segmentation")
        if value is None or value == []:
            return None
        if isinstance(value, dict):
            return self._rle(value, size)
        is_polygons = isinstance(value, list) and all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(map(is_number, p))
            for p in value
        )
        if not is_polygons:
            self.problem(
                "segmentation must be a list of polygons [x0, y0, x1, y1, ...] of 3 or more "
                f"points, or RLE {{size, counts}}, found {shown(value)}"
            )
            return None
        limits = size or (MAX_SIDE, MAX_SIDE)
        for polygon in value:
            for axis, limit in enumerate(limits):
                # A point far outside makes a decoder walk there pixel by pixel.
                if min(polygon[axis::2]) < -limit or max(polygon[axis::2]) > 2 * limit:
                    self.problem(
                        f"segmentation has a point more than {limit} pixels outside the picture"
                    )
                    return None
        return value

    def _rle(self, value: dict[str, Any], size: tuple[int, int] | None) -> dict[str, Any] | None:
        rle_size = value.get("size")
        if size is not None and rle_size != [size[1], size[0]]:
            self.problem(
                f"segmentation size is {shown(rle_size)}, must be [height, width] = "
                f"{[size[1], size[0]]}"
            )
            return None
        try:
            check_rle(value)
        except ValueError as error:
            self.problem(f"segmentation counts must be RLE: {error}")
            return None
        return value
