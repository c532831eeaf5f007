"""Predictions that anyone made, read from a file and checked.

`.json`: a list of `{"query": "ID_k", "image": "c1s1_000151", "bbox": [x0, y0, x1, y1],
"score": s}`. `.npz`: `query` (N,) and `image` (N,) as positions in the texts `query_names` and
`image_names`; `bbox` (N, 4); `score` (N,). Boxes are XYXY_ABS in pixels of the stored image; a box
without area is allowed and matches nothing. Image names may end in `.jpg` or not. Whole benchmarks
are for `.npz`: tens of millions of boxes take their size in memory, and no object each.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.datasets.fields import is_number
from ..data.datasets.ins_annotations import image_key
from ..utils.reading import ArrayFile, UnreadableFileError, open_arrays, printable, read_json, shown
from .ins_metrics import QueryBoxes
from .ins_protocol import Protocol

logger = logging.getLogger(__name__)

_FIELDS = ("query", "image", "bbox", "score")
_NPZ_ARRAYS = (*_FIELDS, "query_names", "image_names")
_TAKEN = object()


class PredictionError(UnreadableFileError):
    """A file of predictions that cannot be judged; the message names the file and the record."""

    def __init__(self, message: str) -> None:
        ValueError.__init__(self, printable(message))
        self.reason = printable(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


@dataclass(frozen=True)
class Predictions:
    """The boxes of all queries, grouped by query. Shape shorthand: N boxes.

    Attributes:
        images: (N,) int32, positions in the `image_names` of the protocol.
        boxes: (N, 4), XYXY_ABS in pixels of the stored image.
        scores: (N,).
        rows_of: query name -> its rows, a slice or (n,) positions, in the order of the file.
    """

    images: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    rows_of: Mapping[str, slice | np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def of(self, query_name: str) -> QueryBoxes:
        """The boxes of one query; none where the file does not name it."""
        rows = self.rows_of.get(query_name, slice(0, 0))
        return QueryBoxes(self.images[rows], self.boxes[rows], self.scores[rows])


@dataclass
class _Columns:
    """What a file holds, before the names are looked up."""

    query: np.ndarray
    image: np.ndarray
    bbox: np.ndarray
    score: np.ndarray
    query_names: Sequence[str]
    image_names: Sequence[str]


def read_predictions(path: str | Path, protocol: Protocol) -> Predictions:
    """Read and check a file of predictions.

    Args:
        path: a .json or .npz file.
        protocol: whose queries and images the file names.

    Raises:
        FileNotFoundError: there is no such file.
        PredictionError: naming the record: an unknown query or image, a number that is not
            finite, an inverted box, a missing or wrong field; or a file of another kind.
    """
    path = Path(path)
    readers = {".json": _read_json, ".npz": _read_npz}
    if path.suffix not in readers:
        raise PredictionError(
            f"{path}: predictions are {' or '.join(readers)}, not {path.suffix!r}"
        )
    columns = readers[path.suffix](path)
    _check_numbers(columns, path)
    known = {name: i for i, name in enumerate(protocol.query_names)}
    queries = _look_up(columns.query, columns.query_names, known, "query", path)
    columns.query = np.zeros(0, np.int32)
    names = [image_key(name) for name in columns.image_names]
    images = _look_up(columns.image, names, protocol.image_index, "image", path)
    return Predictions(images, columns.bbox, columns.score, _group(queries, protocol.query_names))


def _read_npz(path: Path) -> _Columns:
    try:
        with open_arrays(path, "file of predictions") as arrays:
            columns = _read_columns(arrays)
    except UnreadableFileError as error:
        raise PredictionError(f"{path}: cannot be read as .npz: {error.reason}") from error
    _check_arrays(columns, path)
    return columns


def _read_columns(arrays: ArrayFile) -> _Columns:
    missing = [name for name in _NPZ_ARRAYS if name not in arrays.names]
    if missing:
        raise arrays.error(f"it lacks the arrays {missing}; it holds {sorted(arrays.names)}")
    # One array at a time, the indices narrowed at once: they are tens of millions.
    query = _indices(arrays, "query")
    return _Columns(
        query,
        _indices(arrays, "image", len(query)),
        arrays.read("bbox", "iuf", len(query), 4, is_finite=False),
        arrays.read("score", "iuf", len(query), is_finite=False),
        _texts(arrays, "query_names"),
        _texts(arrays, "image_names"),
    )


def _check_arrays(columns: _Columns, path: Path) -> None:
    if columns.score.dtype.kind != "f":
        columns.score = columns.score.astype(np.float64)
    for name in ("query", "image"):
        _check_range(getattr(columns, name), len(getattr(columns, f"{name}_names")), name, path)


def _indices(arrays: ArrayFile, name: str, count: int | None = None) -> np.ndarray:
    value = arrays.read(name, "iu", count)
    limit = np.iinfo(np.int32).max
    if len(value) and not -limit <= int(value.min()) <= int(value.max()) <= limit:
        raise arrays.error(f"{name} holds a position above {limit}")
    return value.astype(np.int32, copy=False)


def _texts(arrays: ArrayFile, name: str) -> list[str]:
    value = arrays.read(name, "US", None)
    return [str(one) for one in (np.char.decode(value) if value.dtype.kind == "S" else value)]


def _check_range(indices: np.ndarray, count: int, name: str, path: Path) -> None:
    if len(indices) and (indices.min() < 0 or indices.max() >= count):
        i = int(np.argmax((indices < 0) | (indices >= count)))
        raise PredictionError(
            f"{path}: record {i}: {name} is {indices[i]}, but {name}_names has {count} texts"
        )


class _RecordCollector:
    """Takes each JSON record apart as soon as it is parsed, so that no list of dicts builds up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, dict[str, int]] = {"query": {}, "image": {}}
        self._indices = {"query": array("i"), "image": array("i")}
        self._boxes = array("d")
        self._scores = array("d")

    def take(self, record: dict[str, Any]) -> object:
        where = f"{self._path}: record {len(self._scores)}"
        missing = [name for name in _FIELDS if name not in record]
        if missing:
            raise PredictionError(
                f"{where}: lacks {missing}; a record is "
                '{"query": "ID_k", "image": name, "bbox": [x0, y0, x1, y1], "score": number}'
            )
        for name, known in self._names.items():
            value = record[name]
            # Data sets in our own format call a query by a number.
            is_name = isinstance(value, str) or (name == "query" and type(value) is int)
            if not is_name:
                raise PredictionError(f"{where}: {name} must be a name, found {shown(value)}")
            self._indices[name].append(known.setdefault(str(value), len(known)))
        box = record["bbox"]
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_float, box))):
            raise PredictionError(f"{where}: bbox must be four numbers, found {shown(box)}")
        if not _is_float(record["score"]):
            raise PredictionError(
                f"{where}: score must be a number, found {shown(record['score'])}"
            )
        self._boxes.extend(box)
        self._scores.append(record["score"])
        return _TAKEN

    def columns(self) -> _Columns:
        return _Columns(
            np.array(self._indices["query"], np.int32),
            np.array(self._indices["image"], np.int32),
            np.array(self._boxes, np.float64).reshape(-1, 4),
            np.array(self._scores, np.float64),
            list(self._names["query"]),
            list(self._names["image"]),
        )


def _read_json(path: Path) -> _Columns:
    collector = _RecordCollector(path)
    try:
        content = read_json(path, object_hook=collector.take)
    except PredictionError:
        raise
    except UnreadableFileError as error:
        raise PredictionError(f"{path}: {error.reason}") from error
    if not isinstance(content, list):
        raise PredictionError(f"{path}: must hold a list of records")
    for i, item in enumerate(content):
        if item is not _TAKEN:
            raise PredictionError(f"{path}: record {i} must be an object, found {shown(item)}")
    return collector.columns()


def _is_float(value: object) -> bool:
    """Whether a value is a number that fits an array; that it is finite is checked at the end."""
    return isinstance(value, float) or is_number(value)


def _check_numbers(columns: _Columns, path: Path) -> None:
    def refuse(is_wrong: np.ndarray, what: str) -> None:
        if is_wrong.any():
            i = int(np.argmax(is_wrong))
            query = columns.query_names[columns.query[i]]
            image = columns.image_names[columns.image[i]]
            raise PredictionError(
                f"{path}: record {i} (query {query}, image {image}): {what}: bbox "
                f"{columns.bbox[i].tolist()}, score {columns.score[i]}"
            )

    refuse(~np.isfinite(columns.score), "the score is not a finite number")
    for k in range(4):
        refuse(~np.isfinite(columns.bbox[:, k]), "the box is not finite")
    for k in range(2):
        refuse(
            columns.bbox[:, k + 2] < columns.bbox[:, k],
            "the box is inverted, it must be [x0, y0, x1, y1] with x0 <= x1 and y0 <= y1",
        )


def _look_up(
    indices: np.ndarray, names: Sequence[str], known: Mapping[str, int], what: str, path: Path
) -> np.ndarray:
    """(N,) int32 positions in `known` instead of those in `names`."""
    table = np.array([known.get(name, -1) for name in names], np.int32)
    found = table[indices]
    if len(found) and found.min() < 0:
        i = int(np.argmin(found))
        raise PredictionError(
            f"{path}: record {i}: {what} {names[indices[i]]!r} is none of the {len(known)} that "
            f"the annotations know, for example {next(iter(known), None)!r}"
        )
    return found


def _group(queries: np.ndarray, names: Sequence[str]) -> dict[str, slice | np.ndarray]:
    if len(queries) == 0:
        return {}
    order = None
    if np.any(queries[1:] < queries[:-1]):
        # numpy sorts 16-bit integers by radix, which is much faster.
        small = len(names) <= np.iinfo(np.uint16).max
        order = np.argsort(queries.astype(np.uint16) if small else queries, kind="stable")
    counts = np.bincount(queries, minlength=len(names))
    ends = np.cumsum(counts)
    return {
        name: slice(end - count, end) if order is None else order[end - count : end]
        for name, count, end in zip(names, counts.tolist(), ends.tolist())
        if count
    }
