"""Masks as run lengths: what COCO's library makes is taken, anything else is refused."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from spil_d2.structures.rle import check_rle

MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)
)


SIZE = r"the size of a mask is \[height, width\] in pixels, found "
RUNS = "counts are a list of runs or COCO's text of them, found "


@settings(max_examples=40, deadline=None)
@given(MASKS)
def test_every_mask_is_taken(mask: np.ndarray) -> None:
    packed = mask_util.encode(np.asfortranarray(mask))
    size = list(mask.shape)
    check_rle({"size": size, "counts": packed["counts"].decode()})
    check_rle({"size": size, "counts": packed["counts"]})
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    check_rle({"size": size, "counts": [0, *runs] if flat[0] else runs})


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=12), st.lists(st.integers(1, 9), min_size=2, max_size=2))
def test_what_is_taken_is_decoded(text: str, size: list[int]) -> None:
    try:
        check_rle({"size": size, "counts": text})
    except ValueError:
        return
    assert mask_util.decode({"size": size, "counts": text}).shape == tuple(size)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": [10, 12], "counts": [99]}, "the runs of a mask cover 99 pixels of 10x12"),
        ({"size": [10, 10], "counts": [101]}, "the runs of a mask cover 101 pixels"),
        ({"size": [10, 10], "counts": [-1, 101]}, RUNS + r"\[-1, 101\]"),
        ({"size": [10, 10], "counts": [True, 99]}, RUNS + r"\[True, 99\]"),
        ({"size": [10, 10], "counts": None}, RUNS + "None"),
        ({"size": [10, 10], "counts": "ooooooo0"}, "counts hold the .*run of too many"),
        ({"size": [10, 10], "counts": "oooooo0"}, "the runs of a mask cover"),
        ({"size": [10, 10], "counts": "é"}, "counts hold the character 'é'"),
        ({"size": [10, 10], "counts": "p"}, "counts hold the character 'p'"),
        ({"size": [10, 10], "counts": b"\xff"}, "counts hold the character '\ufffd'"),
        ({"size": [10, 10], "counts": "P"}, "counts end in the middle of a run"),
        ({"size": [2**31, 2**31], "counts": "0"}, SIZE + r"\[2147483648, 2147483648\]"),
        ({"size": [2**30 + 1, 1], "counts": "0"}, SIZE),
        ({"size": [0, 10], "counts": []}, SIZE + r"\[0, 10\]"),
        ({"size": 3, "counts": "0"}, SIZE + "3"),
        ("x", SIZE + "None"),
    ],
)
def test_what_is_no_mask_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_rle(value)


def test_the_largest_mask_is_taken() -> None:
    check_rle({"size": [2**30, 1], "counts": [2**30]})
