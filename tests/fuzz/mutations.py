"""Changes of valid input: of bytes, of lines of fields, and of trees of values."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

DEEP = "<<deep>>"
"""A text that an encoder replaces by thousands of nested lists."""

_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/../../b",
    "x" * 300,
    "x/" * 2000,
    "\ud800",
    "\udcff",
    "é日本🦊",
    "\u2028",
    "\u202e",
    "nan",
    "-1",
    "1e999",
    "%s%n{0}",
    "C:\\x",
    "http://127.0.0.1:1/x.jpg",
    "!!python/object/apply:os.getcwd []",
    "$(id)",
    DEEP,
)
_NUMBERS = (
    0,
    -0.0,
    1,
    -1,
    0.5,
    1e-320,
    1e308,
    -1e308,
    math.nan,
    math.inf,
    -math.inf,
    2**31,
    2**31 - 1,
    -(2**31) - 1,
    2**53 + 1,
    2**63,
    -(2**63),
    2**64,
    10**18,
    10**30,
    10**400,
    True,
    None,
)
_OTHERS: tuple[Any, ...] = ([], {}, [[]], [None], {"id": 1}, ["a"], [1, 2, 3], {"": {}})
_WORDS = ("nan", "inf", "-inf", "1e999", "-5", "0", "9" * 30, "9" * 5000, "1_0", "٣", "0x10", "é")


def change_bytes(content: bytes, rng: Random) -> bytes:
    """A few changes of bytes and chunks."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        rng.choice(_BYTE_CHANGES)(data, rng)
    return bytes(data)


def _place(data: bytearray, rng: Random) -> int:
    # Headers and ends say what the rest is.
    size = len(data)
    low, high = rng.choice(((0, min(size, 64)), (max(size - 128, 0), size), (0, size)))
    return rng.randrange(low, max(high, low + 1))


def _span(data: bytearray, rng: Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 64, 1024)))


def _flip(data: bytearray, rng: Random) -> None:
    if data:
        place = min(_place(data, rng), len(data) - 1)
        data[place] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: Random) -> None:
    start, stop = _span(data, rng)
    value = rng.choice((0, 255, 127, 128, None))
    data[start:stop] = bytes(
        rng.randrange(256) if value is None else value for _ in range(stop - start)
    )


def _number(data: bytearray, rng: Random) -> None:
    start = _place(data, rng)
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, 2**7, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1))
    data[start : start + size] = (value % 256**size).to_bytes(size, rng.choice(("little", "big")))


def _truncate(data: bytearray, rng: Random) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: Random) -> None:
    start, stop = _span(data, rng)
    del data[start:stop]


def _duplicate(data: bytearray, rng: Random) -> None:
    start, stop = _span(data, rng)
    data[start:start] = data[start:stop] * rng.choice((1, 1, 2, 50))


def _insert(data: bytearray, rng: Random) -> None:
    start = _place(data, rng)
    data[start:start] = rng.randbytes(rng.choice((1, 3, 16, 300)))


def _swap(data: bytearray, rng: Random) -> None:
    a, b = sorted((_span(data, rng), _span(data, rng)))
    if a[1] <= b[0]:
        first, second = bytes(data[a[0] : a[1]]), bytes(data[b[0] : b[1]])
        data[b[0] : b[1]], data[a[0] : a[1]] = first, second


_BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip,
    _flip,
    _overwrite,
    _number,
    _truncate,
    _remove,
    _duplicate,
    _insert,
    _swap,
)


def change_lines(text: str, rng: Random) -> str:
    """Changes of the fields of lines."""
    lines = [line.split(" ") for line in text.split("\n")]
    for _ in range(rng.choice((1, 1, 2, 3))):
        line = rng.choice(lines)
        place = rng.randrange(len(line) + 1)
        match rng.randrange(6):
            case 0:
                lines.remove(line)
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), list(rng.choice(lines)))
            case 2:
                del line[place : place + 1]
            case 3:
                line.insert(place, rng.choice(_WORDS))
            case 4:
                line[place : place + 1] = [rng.choice(_TEXTS)]
            case _:
                line[place : place + 1] = [rng.choice(_WORDS)]
        lines = lines or [[""]]
    joined = rng.choice(("\n", "\n", "\r\n", "\n\n")).join(" ".join(line) for line in lines)
    return joined.replace(DEEP, "[" * 5000)


def change_tree(tree: Any, rng: Random) -> Any:
    """A few changes of values, keys and lists in what JSON, YAML, MATLAB or torch may hold."""
    holder = [copy.deepcopy(tree)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place, key = _somewhere(holder, rng)
        if isinstance(place[key], np.ndarray) and rng.random() < 0.8:
            place[key] = change_array(place[key], rng)
        else:
            _change_item(place, key, rng)
        if not holder:
            return None
    return holder[0]


def _somewhere(holder: list[Any], rng: Random) -> tuple[Any, Any]:
    """A container and a key of it, at any depth."""
    place: Any = holder
    key: Any = 0
    while _children(place[key]) and rng.random() < 0.75:
        place = place[key]
        key = rng.choice(_children(place))
    return place, key


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value)
    if isinstance(value, list):
        return range(len(value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return list(np.ndindex(value.shape))
    if isinstance(value, np.ndarray) and value.dtype.names and value.size:
        return list(np.ndindex(value.shape))
    if isinstance(value, np.void) and value.dtype.names:
        return list(value.dtype.names)
    return ()


def _change_item(place: Any, key: Any, rng: Random) -> None:
    if isinstance(place, (np.ndarray, np.void)):
        is_field = isinstance(place, np.void) or place.dtype == object
        if is_field:
            place[key] = random_value(rng)
        return
    match rng.randrange(8):
        case 0 if len(place) > 0 and isinstance(place, (dict, list)):
            del place[key]
        case 1 if isinstance(place, list):
            place.insert(key, copy.deepcopy(rng.choice(place)))
        case 2 if isinstance(place, dict):
            place[rng.choice(_TEXTS)] = place.pop(key)
        case 3 if isinstance(place, (dict, list)):
            other = rng.choice(list(_children(place)))
            place[key], place[other] = place[other], place[key]
        case 4 if isinstance(place[key], list):
            place[key] = place[key] * rng.choice((0, 2, 3))
        case 5:
            place[key] = [place[key]]
        case _:
            place[key] = random_value(rng)


def random_value(rng: Random) -> Any:
    """A value that hardly any place expects."""
    kind = rng.choice((_TEXTS, _NUMBERS, _NUMBERS, _OTHERS))
    return copy.deepcopy(rng.choice(kind))


def change_array(array: np.ndarray, rng: Random) -> Any:
    """An array of another shape, type or content; or what is none."""
    match rng.randrange(9):
        case 0:
            return random_value(rng)
        case 1:
            return array[: rng.randrange(len(array) + 1)] if array.ndim else array
        case 2:
            return array.reshape(rng.choice(((-1,), (1, -1), (-1, 1), (1, -1, 1))))
        case 3:
            return np.concatenate([array, array]) if array.ndim else array.reshape(1)
        case 4:
            return _as_type(array, rng)
        case 5:
            return np.zeros(rng.choice(((0,), (), (0, 4), (3,), (1, 0), (2, 2))), array.dtype)
        case 6:
            return np.array([random_value(rng) for _ in range(rng.randrange(3))], object)
        case _:
            return _with_values(array, rng)


def _as_type(array: np.ndarray, rng: Random) -> np.ndarray:
    kind = rng.choice(("f2", "f4", ">f8", "i1", "u8", "i8", "c16", "?", "U3", "S3", "M8[s]", "O"))
    try:
        with np.errstate(all="ignore"):
            return array.astype(kind)
    except (ValueError, TypeError, OverflowError):
        return array


def _with_values(array: np.ndarray, rng: Random) -> np.ndarray:
    array = array.copy()
    if array.size and array.dtype.kind in "iufU":
        flat = array.reshape(-1)
        value = rng.choice((math.nan, math.inf, -1e30, 0, -1, 2**31, 2**62, 70000))
        if array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            value = 0 if value != value else int(min(max(value, limits.min), limits.max))
        with np.errstate(all="ignore"):
            flat[rng.randrange(len(flat))] = value
    return array
