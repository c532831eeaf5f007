"""COCO's run-length codes of masks, checked before a library in C decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..utils.reading import shown

MAX_PIXELS = 1 << 30
_FIRST, _LAST = 48, 111
_MORE, _SIGN, _BITS = 0x20, 0x10, 5
_MAX_PARTS = 7


def check_rle(value: Any) -> None:
    """Refuse what is no mask.

    Args:
        value: `{"size": [height, width], "counts": ...}`, the counts as a list or as COCO's text.

    Raises:
        ValueError: saying what is wrong; a decoder would write outside of its memory.
    """
    size = value.get("size") if isinstance(value, dict) else None
    if not (
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(type(one) is int and one > 0 for one in size)
        and size[0] * size[1] <= MAX_PIXELS
    ):
        raise ValueError(f"the size of a mask is [height, width] in pixels, found {shown(size)}")
    counts = value.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(one) is int and one >= 0 for one in runs):
        raise ValueError(f"counts are a list of runs or COCO's text of them, found {shown(counts)}")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"the runs of a mask cover {sum(runs):.4g} pixels of {size[0]}x{size[1]}")


def _runs(text: str) -> Sequence[int]:
    """The runs in COCO's text: 5 bits a character, from the third run on differences."""
    runs: list[int] = []
    value = parts = 0
    for character in text:
        code = ord(character) - _FIRST
        if not 0 <= code <= _LAST - _FIRST or parts >= _MAX_PARTS:
            raise ValueError(f"counts hold the character {character!r}, or a run of too many")
        value |= (code & 0x1F) << (_BITS * parts)
        parts += 1
        if code & _MORE:
            continue
        if code & _SIGN:
            value -= 1 << (_BITS * parts)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = parts = 0
    if parts:
        raise ValueError("counts end in the middle of a run")
    return runs
