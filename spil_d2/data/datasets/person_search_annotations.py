"""The official MATLAB annotations of PRW and CUHK-SYSU.

PRW: `frame_train.mat` and `frame_test.mat` (image names), `annotations/NAME.jpg.mat` (rows
`id x y w h`, id -2 for nobody in particular), `query_info.txt` (`id x y w h frame`).
CUHK-SYSU, in `annotation/`: `Images.mat` (all boxes of all images), `pool.mat` (the test images),
`Person.mat` (the boxes of each person), `test/train_test/TestG100.mat` (each query with its 100
gallery images; those that show the person carry its box). Boxes there are `x y w h`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...structures.query import Box
from ...utils.reading import is_printable, shown
from .fields import DatasetError
from .ins_annotations import (
    UNLABELLED,
    AnnotatedBox,
    AnnotatedQuery,
    LocalGallery,
    SearchAnnotations,
    image_key,
)
from .matlab import matlab_numbers, read_matlab
from .text_files import read_integers, read_lines, read_numbers

logger = logging.getLogger(__name__)

Split = Literal["train", "test"]
CUHK_SYSU_SIZES = (50, 100, 500, 1000, 2000, 4000)
"""The gallery sizes that CUHK-SYSU comes with."""

# PRW's annotation files hold their one array under one of these names.
_PRW_ARRAYS = ("box_new", "anno_file", "anno_previous")
_PRW_NOBODY = -2
_MAX_DIGITS = 15


def read_prw(root: str | Path, split: Split = "test") -> SearchAnnotations:
    """Read one half of PRW.

    Args:
        root: the folder that holds `annotations/`, `frame_test.mat` and `query_info.txt`.
        split: "test" has the 2,057 queries, "train" has none.

    Returns:
        The boxes of the split's frames; frames without boxes are among `image_names` too.

    Raises:
        DatasetError: naming the file, and the line or row, that is missing or wrong.
    """
    root = Path(root)
    key = f"img_index_{split}"
    path = root / f"frame_{split}.mat"
    frames = [image_key(name) for name in _texts(_variable(path, key), path)]
    boxes: list[AnnotatedBox] = []
    for frame in frames:
        boxes += _read_prw_frame(root / "annotations" / f"{frame}.jpg.mat", frame)
    queries = tuple(_read_prw_queries(root / "query_info.txt")) if split == "test" else ()
    return SearchAnnotations(tuple(_with_area(boxes, root)), queries, tuple(sorted(frames)))


def read_cuhk_sysu(
    root: str | Path, split: Split = "test", gallery_size: int = 100
) -> SearchAnnotations:
    """Read one half of CUHK-SYSU.

    The persons of the test half are those of the protocol file, the queries and their gallery
    boxes; all others there are unlabelled, as in the official code.

    Args:
        root: the folder that holds `annotation/`.
        split: "test" has the 2,900 queries with their galleries, "train" has none.
        gallery_size: images a query, one of `CUHK_SYSU_SIZES`.

    Raises:
        DatasetError: naming the file, and the record, that is missing or wrong.
        ValueError: for a gallery size that does not exist.
    """
    if gallery_size not in CUHK_SYSU_SIZES:
        raise ValueError(f"gallery_size is {gallery_size}, allowed: {CUHK_SYSU_SIZES}")
    folder = Path(root) / "annotation"
    pool_path = folder / "pool.mat"
    pool = {image_key(name) for name in _texts(_variable(pool_path, "pool"), pool_path)}
    wanted = _read_cuhk_images(folder / "Images.mat")
    wanted = {name: boxes for name, boxes in wanted.items() if (name in pool) == (split == "test")}
    queries: tuple[AnnotatedQuery, ...] = ()
    galleries = None
    if split == "test":
        protocol = folder / "test" / "train_test" / f"TestG{gallery_size}.mat"
        queries, labels, lists = _read_cuhk_protocol(protocol, f"TestG{gallery_size}")
        _check_known(lists, wanted, protocol)
        galleries = LocalGallery(lists, f"local_TestG{gallery_size}")
    else:
        labels = _read_cuhk_persons(folder / "Person.mat")
    boxes = _labelled(wanted, labels, Path(root))
    return SearchAnnotations(boxes, queries, tuple(sorted(wanted)), galleries)


def _read_prw_frame(path: Path, frame: str) -> list[AnnotatedBox]:
    content = read_matlab(path, simplify=True)
    names = [name for name in _PRW_ARRAYS if name in content]
    if len(names) != 1:
        raise DatasetError(f"{path}: holds {_variables(content)}, not one of {_PRW_ARRAYS}")
    rows = matlab_numbers(content[names[0]], f"{path}: {names[0]}")
    shape = np.shape(content[names[0]])
    if rows.size == 0:
        return []
    if len(shape) > 2 or not shape or shape[-1] != 5:
        raise DatasetError(f"{path}: rows must be five numbers id x y w h, found {shape}")
    rows = rows.reshape(-1, 5)
    return [
        AnnotatedBox(
            UNLABELLED if identity == _PRW_NOBODY else int(identity), frame, _corners(xywh)
        )
        for identity, *xywh in rows.tolist()
    ]


def _read_prw_queries(path: Path) -> Iterable[AnnotatedQuery]:
    count = Counter[int]()
    for number, fields in read_lines(path, "query list"):
        if len(fields) != 6:
            raise DatasetError(
                f"{path}:{number}: {len(fields)} fields, a line has 6: id x y w h frame"
            )
        (identity,) = read_integers(fields[:1], "IDs", f"{path}:{number}")
        xywh = read_numbers(fields[1:5], "x y w h", f"{path}:{number}")
        if min(xywh[2:]) <= 0:
            raise DatasetError(f"{path}:{number}: box {xywh} (x y w h) has no area")
        name = f"{identity}_{count[identity]}"
        count[identity] += 1
        yield AnnotatedQuery(name, identity, image_key(fields[5]), _corners(xywh))


def _read_cuhk_images(path: Path) -> dict[str, list[Box]]:
    images: dict[str, list[Box]] = {}
    for i, record in enumerate(_structs(_variable(path, "Img"), path)):
        where = f"{path}: Img({i + 1})"
        boxes = [_box(one, where) for one in _structs(_field(record, "box", where), path)]
        images[_image(record, where)] = [box for box in boxes if box is not None]
    return images


def _read_cuhk_persons(path: Path) -> dict[tuple[str, Box], int]:
    labels: dict[tuple[str, Box], int] = {}
    for i, person in enumerate(_structs(_variable(path, "Person"), path)):
        where = f"{path}: Person({i + 1})"
        identity = _person(person, where)
        for scene in _structs(_field(person, "scene", where), path):
            box = _box(scene, where)
            if box is not None:
                labels[_image(scene, where), box] = identity
    return labels


def _read_cuhk_protocol(
    path: Path, variable: str
) -> tuple[tuple[AnnotatedQuery, ...], dict[tuple[str, Box], int], dict[str, tuple[str, ...]]]:
    """The queries, who is in which box, and the image list of each query by its name."""
    queries, count = [], Counter[int]()
    labels: dict[tuple[str, Box], int] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for i, record in enumerate(_structs(_variable(path, variable), path)):
        where = f"{path}: {variable}({i + 1})"
        query = _field(record, "Query", where)
        identity, image, box = _person(query, where), _image(query, where), _box(query, where)
        if box is None:
            raise DatasetError(f"{where}: the query of p{identity} in {image} has no box")
        name = f"{identity}_{count[identity]}"
        count[identity] += 1
        queries.append(AnnotatedQuery(name, identity, image, box))
        labels[image, box] = identity
        gallery = _structs(_field(record, "Gallery", where), path)
        for one in gallery:
            shown = _box(one, where)
            if shown is not None:
                labels[_image(one, where), shown] = identity
        lists[name] = tuple(dict.fromkeys(_image(one, where) for one in gallery))
    return tuple(queries), labels, lists


def _labelled(
    images: Mapping[str, Sequence[Box]], labels: Mapping[tuple[str, Box], int], root: Path
) -> tuple[AnnotatedBox, ...]:
    """All boxes with their identity; a labelled box that `images` lacks is added."""
    boxes = {(name, box): UNLABELLED for name, found in images.items() for box in found}
    boxes.update({key: identity for key, identity in labels.items() if key[0] in images})
    every = [AnnotatedBox(identity, name, box) for (name, box), identity in boxes.items()]
    return tuple(_with_area(every, root))


def _with_area(boxes: Iterable[AnnotatedBox], root: Path) -> list[AnnotatedBox]:
    """The boxes that have an area; both sets hold some of width or height 0, left out and told."""
    boxes = list(boxes)
    kept = [one for one in boxes if one.box[2] > one.box[0] and one.box[3] > one.box[1]]
    if len(kept) < len(boxes):
        logger.warning(
            "%s: left out %d of %d boxes without area", root, len(boxes) - len(kept), len(boxes)
        )
    return kept


def _check_known(lists: Mapping[str, Sequence[str]], images: Iterable[str], path: Path) -> None:
    known = frozenset(images)
    for query, names in lists.items():
        for name in names:
            if name not in known:
                raise DatasetError(
                    f"{path}: the gallery of query {query} names {name}, which is none of the "
                    f"{len(known)} images of pool.mat with boxes in Images.mat"
                )


def _variable(path: Path, name: str) -> Any:
    content = read_matlab(path, simplify=True)
    if name not in content:
        raise DatasetError(f"{path}: holds {_variables(content)}, not {name!r}")
    return content[name]


def _variables(content: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in content if not name.startswith("__"))


# `simplify_cells` returns a list for several items, the item itself for one, an empty array for
# none.
def _items(value: Any) -> list[Any]:
    is_array = isinstance(value, np.ndarray) and value.ndim > 0
    return list(value) if is_array or isinstance(value, list) else [value]


def _structs(value: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value]
    items = _items(value)
    odd = [item for item in items if not isinstance(item, dict)]
    if odd:
        raise DatasetError(f"{path}: expected a struct array, found {shown(odd[0])}")
    return items


def _texts(value: Any, path: Path) -> list[str]:
    items = _items(value)
    for i, item in enumerate(items):
        if not isinstance(item, str) or not is_printable(item) or "/" in item:
            raise DatasetError(f"{path}: expected names of images, entry {i + 1} is {shown(item)}")
    return [str(item) for item in items]


def _field(record: Mapping[str, Any], name: str, where: str) -> Any:
    if not isinstance(record, dict):
        raise DatasetError(f"{where}: expected a struct, found {shown(record)}")
    if name not in record:
        raise DatasetError(f"{where}: has the fields {sorted(record)}, not {name!r}")
    return record[name]


def _image(record: Mapping[str, Any], where: str) -> str:
    name = _field(record, "imname", where)
    if not isinstance(name, str) or not name or not is_printable(name):
        raise DatasetError(f"{where}: imname must be the name of an image, found {shown(name)}")
    return image_key(str(name))


def _person(record: Mapping[str, Any], where: str) -> int:
    name = str(_field(record, "idname", where))
    digits = name.removeprefix("p")
    if not digits.isdecimal() or len(digits) > _MAX_DIGITS:
        raise DatasetError(f"{where}: idname is {shown(name)}, a person is called p and a number")
    return int(digits)


def _box(record: Mapping[str, Any], where: str) -> Box | None:
    """The box as corners, None where `idlocate` is empty: the person is not there."""
    # Stored in small unsigned integers, in which x + w overflows.
    xywh = matlab_numbers(_field(record, "idlocate", where), f"{where}: idlocate")
    if xywh.size == 0:
        return None
    if xywh.size != 4:
        raise DatasetError(f"{where}: idlocate must be four numbers x y w h, not {xywh.size}")
    return _corners(xywh.tolist())


def _corners(xywh: Sequence[float]) -> Box:
    x, y, w, h = xywh
    return x, y, x + w, y + h
