"""Lists of many queries in one .npz: the columns of all lists end to end, with offsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ..utils.reading import ArrayFile, open_arrays


class QueryList(Protocol):
    """A dataclass of aligned arrays (N, ...) that belong to one query."""

    @property
    def query_id(self) -> int: ...

    def __len__(self) -> int: ...


L = TypeVar("L", bound=QueryList)


@dataclass(frozen=True)
class Column:
    """One array of a list.

    Attributes:
        name: the attribute of the list and the name in the file.
        dtype: of the array in the file.
        width: numbers in a row; 0 for an array (N,).
        is_optional: may be None; it is written only where every list has it.
    """

    name: str
    dtype: type
    width: int = 0
    is_optional: bool = False


def check_columns(one: QueryList, columns: Sequence[Column], what: str) -> None:
    """Compare the shapes of a list's arrays with its `image_ids`.

    Raises:
        ValueError: naming the query, the column, its shape and the right one.
    """
    count = len(one)
    for column in columns:
        value = getattr(one, column.name)
        if value is None and column.is_optional:
            continue
        shape = (count, column.width) if column.width else (count,)
        if np.shape(value) != shape:
            raise ValueError(
                f"{what} of query {one.query_id}: {column.name} is {np.shape(value)}, not {shape}"
            )


def take_columns(one: QueryList, columns: Sequence[Column], index: np.ndarray) -> dict[str, Any]:
    """The rows at `index` ((K,) int) of every column; what is None stays None."""
    values = {column.name: getattr(one, column.name) for column in columns}
    return {name: None if value is None else value[index] for name, value in values.items()}


def save_lists(path: str | Path, lists: Sequence[QueryList], columns: Sequence[Column]) -> None:
    """Write one .npz (no pickle): `query_ids` (Q,), `offsets` (Q + 1,) and the columns, flat."""
    arrays: dict[str, Any] = {
        "query_ids": np.array([one.query_id for one in lists], np.int64),
        "offsets": np.cumsum([0, *(len(one) for one in lists)]).astype(np.int64),
    }
    for column in columns:
        parts = [getattr(one, column.name) for one in lists]
        if column.is_optional and (not parts or any(part is None for part in parts)):
            continue
        empty = (0, column.width) if column.width else (0,)
        joined = np.concatenate(parts) if parts else np.zeros(empty)
        arrays[column.name] = joined.astype(column.dtype, copy=False)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_lists(
    path: str | Path, kind: type[L], columns: Sequence[Column], what: str
) -> tuple[L, ...]:
    """Read what `save_lists` wrote.

    Args:
        path: the file.
        kind: the class of one list, called with `query_id` and the columns of the file.
        columns: the same as when it was written.
        what: the kind of list in words, for the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, where it is damaged or of another kind.
    """
    with open_arrays(path, f"file of {what}s") as arrays:
        query_ids = arrays.read("query_ids", "i", None)
        bounds = arrays.read("offsets", "i", len(query_ids) + 1)
        if bounds[0] != 0 or np.any(np.diff(bounds) < 0):
            raise arrays.error(f"offsets must rise from 0, found {bounds[:9].tolist()}")
        data = {one.name: _read(arrays, one, int(bounds[-1])) for one in columns}
        lists = _slices(query_ids, bounds, {k: v for k, v in data.items() if v is not None})
        return tuple(kind(**one) for one in lists)


def _read(arrays: ArrayFile, column: Column, count: int) -> np.ndarray | None:
    if column.is_optional and column.name not in arrays.names:
        return None
    shape = (count, column.width) if column.width else (count,)
    array = arrays.read(column.name, np.dtype(column.dtype).kind, *shape)
    return array.astype(column.dtype, copy=False)


def _slices(
    query_ids: np.ndarray, bounds: np.ndarray, data: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    for query_id, start, stop in zip(query_ids.tolist(), bounds, bounds[1:]):
        yield {"query_id": query_id, **{name: one[start:stop] for name, one in data.items()}}
