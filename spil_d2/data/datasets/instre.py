"""INSTRE as published: pictures, one text file of boxes beside each, and `gnd_instre.mat`.

A line of a text file is `x y w h`; in INSTRE-M the first line is the object of the class `..a_..`
of INSTRE-S1, the second that of `..b_..`. The .mat file holds the split of Iscen et al.: `qimlist`
and `imlist` (paths), and for each query `ok` (1-based positions in `imlist`) and `bbx`. Readers
disagree on whether `bbx` is x y w h or corners, so it is compared with the query's own text file.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...ops.numpy_boxes import paired_iou
from ...structures.query import Box, Query, Reference
from ...utils.reading import is_printable, shown
from .fields import DatasetError
from .image_sizes import read_sizes
from .matlab import matlab_numbers, read_matlab
from .official import (
    LoadedDataset,
    ProtocolFacts,
    clip_box,
    make_record,
    register_official,
    xywh_to_corners,
)
from .text_files import read_lines, read_numbers

logger = logging.getLogger(__name__)

TRUTH_FILE = "gnd_instre.mat"
BOX_FORMATS = ("xyxy", "xywh")

ReadBoxes = Callable[[str], Sequence[Box]]
"""Path of a picture, relative to the dataset -> the boxes of its text file, XYXY_ABS."""

_PAIRS = "INSTRE-M"
# A reading of the boxes is right where nearly all of them are nearly those of the text files.
_SAME_IOU = 0.9
_MIN_AGREEMENT = 0.95
_OBJECT_OF_PAIR = re.compile(r"\d+([ab])_")


@dataclass(frozen=True)
class InstreTruth:
    """What `gnd_instre.mat` says. Shape shorthand: Q queries.

    Attributes:
        path: the file.
        images, query_images: paths relative to the dataset.
        positives: of each query, 0-based positions in `images`, rising.
        boxes: (Q, 4) float64, as they are in the file.
    """

    path: Path
    images: tuple[str, ...]
    query_images: tuple[str, ...]
    positives: tuple[tuple[int, ...], ...]
    boxes: np.ndarray


def load_instre(root: str | Path, box_format: str = "auto") -> LoadedDataset:
    """Load INSTRE.

    The queries of a class that have the same positives make one instance: 250 in the published
    file. An image of a pair shows three instances, both objects and the pair.

    Args:
        root: holds `gnd_instre.mat`, `INSTRE-S1/`, `INSTRE-S2/` and `INSTRE-M/`.
        box_format: of `bbx`: one of `BOX_FORMATS`, or "auto" to find out.

    Raises:
        DatasetError: naming file and record of what is missing or wrong, or that the format of
            the boxes cannot be told.
    """
    root = Path(root).expanduser().resolve()
    truth = read_truth(root / TRUTH_FILE)
    lines: ReadBoxes = functools.cache(functools.partial(_read_boxes, root))
    sizes = read_sizes(root, {name: root / name for name in (*truth.images, *truth.query_images)})
    query_boxes = _query_boxes(truth, lines, box_format)
    instances = _instances(truth)
    shown: dict[int, list[tuple[int, Box]]] = defaultdict(list)
    for (folder, positives), instance in instances.items():
        for i in positives:
            name = truth.images[i]
            where = str(_text_file(root, name))
            for box in _boxes_of_class(folder, name, lines(name), where):
                shown[i].append((instance, clip_box(box, sizes[name], where)))
    dicts = [
        make_record(root / name, i, sizes[name], shown[i]) for i, name in enumerate(truth.images)
    ]
    ids = {name: i for i, name in enumerate(truth.images)}
    queries = []
    for i, (name, box) in enumerate(zip(truth.query_images, query_boxes)):
        where = f"{truth.path}: gnd({i + 1})"
        inside = clip_box(tuple(box.tolist()), sizes[name], where)
        reference = Reference(str(root / name), *sizes[name], inside, ids.get(name))
        queries.append(Query(i, (reference,), instances[_class_of(name), truth.positives[i]]))
    names = {i: f"{i}:{name.removesuffix('.jpg')}" for i, name in enumerate(truth.query_images)}
    return LoadedDataset(dicts, queries, ProtocolFacts(root, names))


def register_instre(root: str | Path) -> list[str]:
    """Register the folder `instre` as `ins_instre` where it holds `gnd_instre.mat`.

    Args:
        root: folder of dataset folders.

    Returns:
        The names that now stand for folders in `root`.
    """
    folder = Path(root).expanduser().resolve() / "instre"
    if not (folder / TRUTH_FILE).is_file():
        return []
    done = register_official("ins_instre", folder, functools.partial(load_instre, folder))
    return ["ins_instre"] if done else []


def read_truth(path: Path) -> InstreTruth:
    """Read `gnd_instre.mat`.

    Raises:
        DatasetError: the file, or a record in it, is missing or wrong.
    """
    content = read_matlab(path)
    missing = [name for name in ("imlist", "qimlist", "gnd") if name not in content]
    if missing:
        found = sorted(name for name in content if not name.startswith("__"))
        raise DatasetError(f"{path}: holds {found}, not {missing}")
    images = _names(content["imlist"], f"{path}: imlist")
    query_images = _names(content["qimlist"], f"{path}: qimlist")
    gnd = content["gnd"]
    if not isinstance(gnd, np.ndarray) or gnd.dtype.names is None or len(gnd.dtype.names) < 2:
        raise DatasetError(f"{path}: gnd must be structs of ok and bbx, found {shown(gnd)}")
    records = gnd.ravel()
    if len(records) != len(query_images):
        raise DatasetError(f"{path}: {len(records)} records in gnd, {len(query_images)} in qimlist")
    positives, boxes = [], []
    for i, record in enumerate(records):
        where = f"{path}: gnd({i + 1})"
        # By position, ok and bbx: that is how all published readers take them.
        ok, box = matlab_numbers(record[0], where), matlab_numbers(record[1], where)
        if len(box) != 4:
            raise DatasetError(f"{where}: bbx must be four numbers, found {box.tolist()!s:.90}")
        if len(ok) and not (1 <= ok.min() and ok.max() <= len(images)):
            raise DatasetError(
                f"{where}: ok must be from 1 to {len(images)}, found {ok.tolist()!s:.90}"
            )
        positives.append(tuple(sorted({int(one) - 1 for one in ok})))
        boxes.append(box)
    if not boxes:
        raise DatasetError(f"{path}: qimlist: holds no query")
    return InstreTruth(path, images, query_images, tuple(positives), np.array(boxes))


def resolve_box_format(boxes: np.ndarray, own: np.ndarray, where: str) -> str:
    """Which of `BOX_FORMATS` boxes are in, by comparison with boxes that are known.

    Args:
        boxes: (Q, 4) float64, in either format.
        own: (Q, 4) float64, the same boxes as XYXY_ABS.
        where: the file, for errors.

    Raises:
        DatasetError: neither reading, or both, agree on more than 95 % of the boxes.
    """
    agreement = {
        one: float(np.mean(paired_iou(_as_corners(boxes, one), own) > _SAME_IOU))
        for one in BOX_FORMATS
    }
    right = [one for one, part in agreement.items() if part > _MIN_AGREEMENT]
    told = ", ".join(f"{one} {100 * part:.1f} %" for one, part in agreement.items())
    if len(right) != 1:
        raise DatasetError(
            f"{where}: the format of bbx cannot be told: boxes that agree with the text files are "
            f"{told}; one of them must be above 95 %. Call load_instre with box_format 'xyxy' or "
            "'xywh' to decide"
        )
    logger.info("%s: boxes that agree with the text files: %s", where, told)
    return right[0]


def _query_boxes(truth: InstreTruth, lines: ReadBoxes, box_format: str) -> np.ndarray:
    """(Q, 4) float64 XYXY_ABS."""
    if box_format == "auto":
        # The box of a query of INSTRE-M encloses both objects; the others have one line.
        own = np.array([_enclosing(lines(name)) for name in truth.query_images])
        box_format = resolve_box_format(truth.boxes, own, str(truth.path))
    elif box_format not in BOX_FORMATS:
        raise ValueError(f"box_format is {box_format!r}, allowed: 'auto' and {BOX_FORMATS}")
    return _as_corners(truth.boxes, box_format)


def _as_corners(boxes: np.ndarray, box_format: str) -> np.ndarray:
    if box_format == "xyxy":
        return boxes
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _instances(truth: InstreTruth) -> dict[tuple[str, tuple[int, ...]], int]:
    """(class folder, positives) -> instance id from 1 on, classes in alphabetical order."""
    keys = {(_class_of(name), ok) for name, ok in zip(truth.query_images, truth.positives)}
    classes = {folder for folder, _ in keys}
    if len(keys) > len(classes):
        logger.warning(
            "%s: queries of a class have different positives; %d classes make %d instances",
            truth.path,
            len(classes),
            len(keys),
        )
    return {key: i for i, key in enumerate(sorted(keys), start=1)}


def _boxes_of_class(folder: str, image: str, lines: Sequence[Box], where: str) -> list[Box]:
    """Where an image shows the object of a class."""
    if _subset(image) != _PAIRS:
        return list(lines)
    if len(lines) != 2:
        raise DatasetError(f"{where}: {len(lines)} boxes, a picture of INSTRE-M has 2")
    if _subset(folder) == _PAIRS:
        return [_enclosing(lines)]
    found = _OBJECT_OF_PAIR.match(PurePosixPath(folder).name)
    if found is None:
        raise DatasetError(
            f"{where}: is a positive of {folder}, whose name does not say which of the two objects "
            "it is: names start with a number and a or b"
        )
    return [lines["ab".index(found.group(1))]]


def _enclosing(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes)
    return min(x0), min(y0), max(x1), max(y1)


def _read_boxes(root: Path, image: str) -> tuple[Box, ...]:
    path = _text_file(root, image)
    boxes = tuple(
        xywh_to_corners(read_numbers(fields, "x y w h", f"{path}:{number}"))
        for number, fields in read_lines(path, "boxes of a picture")
        if fields
    )
    if not boxes:
        raise DatasetError(f"{path}: holds no box")
    return boxes


def _text_file(root: Path, image: str) -> Path:
    return (root / image).with_suffix(".txt")


def _class_of(image: str) -> str:
    return PurePosixPath(image).parent.as_posix()


def _subset(path: str) -> str:
    return PurePosixPath(path).parts[0].upper()


def _names(cells: Any, where: str) -> tuple[str, ...]:
    if not isinstance(cells, np.ndarray) or cells.dtype != object:
        raise DatasetError(f"{where}: expected a cell array of names, found {shown(cells)}")
    names = tuple(str(np.ravel(cell)[0]) if np.size(cell) else "" for cell in cells.ravel())
    for i, name in enumerate(names):
        path = PurePosixPath(name)
        is_inside = len(path.parts) > 1 and not path.is_absolute() and ".." not in path.parts
        if not is_inside or not is_printable(name) or not path.suffix:
            raise DatasetError(f"{where}({i + 1}): {shown(name)} is no path inside the dataset")
    _no_repetition(names, where)
    return names


def _no_repetition(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DatasetError(f"{where}: {name!r} is there twice")
        seen.add(name)
