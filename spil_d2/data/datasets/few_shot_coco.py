"""COCO-format annotation files as arrays, and the pictures that they speak of."""

from __future__ import annotations

import functools
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...utils.reading import UnreadableFileError, shown
from ...utils.reading import read_json as read_any_json
from .fields import DatasetError, FieldReader, Problem, is_number, label

logger = logging.getLogger(__name__)

# There a picture is called by its id alone, whatever the annotation file calls it.
_FOLDERS_BY_ID = ("train2017", "val2017")


@dataclass(frozen=True)
class CocoImage:
    """A picture: `file_name` is relative to one of the image folders, sizes are in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoFile:
    """What a COCO-format file says of boxes; segmentations are not kept.

    Annotations are in the order of (image id, annotation id), whatever that of the file.

    Attributes:
        path: the file.
        images: id -> picture, in the order of the file.
        names: category id -> name.
        annotation_ids, image_ids, category_ids: (N,) int64.
        boxes: (N, 4) float64 x, y, w, h in pixels, inside the picture and with area > 0.
        areas: (N,) float64, the file's `area` (of the mask), else w * h.
        crowd: (N,) bool.
    """

    path: Path
    images: Mapping[int, CocoImage]
    names: Mapping[int, str]
    annotation_ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray

    def rows_by_image(self, rows: np.ndarray) -> dict[int, list[int]]:
        """Rows (M,) int64 of annotations -> {image id: its rows}."""
        found: dict[int, list[int]] = defaultdict(list)
        for row, image_id in zip(rows.tolist(), self.image_ids[rows].tolist()):
            found[image_id].append(row)
        return dict(found)

    def rows_of(self, category_ids: Iterable[int]) -> np.ndarray:
        """(M,) int64 rows of the annotations of some categories, crowds included."""
        return np.flatnonzero(np.isin(self.category_ids, list(category_ids)))

    def check_names(self, names: Mapping[int, str]) -> None:
        """Compare the file's categories with those expected.

        Raises:
            DatasetError: they differ.
        """
        ids = sorted(set(self.names) | set(names))
        odd = [i for i in ids if self.names.get(i) != names.get(i)]
        if odd:
            raise DatasetError(
                f"{self.path}: categories: id {odd[0]} is {self.names.get(odd[0])!r} here and "
                f"{names.get(odd[0])!r} in the split of the classes (and {len(odd) - 1} more "
                "differ); use the split that belongs to this file"
            )


@functools.lru_cache(maxsize=4)
def load_coco(path: Path) -> CocoFile:
    """Read a COCO-format file; a file is read once in a process.

    Args:
        path: absolute.

    Raises:
        DatasetError: it cannot be read; the message names file and record.
    """
    return parse_coco(path, read_json(path))


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        DatasetError: no such file, no JSON, or no object.
    """
    try:
        content = read_any_json(path)
    except UnreadableFileError as error:
        raise DatasetError(f"{path}: {error.reason}") from error
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: must hold an object {{...}}, found {type(content).__name__}")
    return content


def parse_coco(path: Path, content: Mapping[str, Any]) -> CocoFile:
    """Check the content of a COCO-format file and turn it into arrays.

    Boxes are cut at the borders of their pictures. Those with no area inside are left out with a
    warning: COCO itself has a few.

    Args:
        path: the file, for messages.
        content: "images" (id, file_name, width, height), "annotations" (id, image_id, category_id,
            bbox, and optionally area and iscrowd) and "categories" (id, name).

    Raises:
        DatasetError: the first thing that is wrong, with its file and record.
    """
    problems: list[Problem] = []
    top = FieldReader(path, "top level", content, problems)
    names = _read_names(path, top.list_of("categories"), problems)
    images = _read_images(path, top.list_of("images"), problems)
    found = _read_annotations(path, top.list_of("annotations"), images, names, problems)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DatasetError(f"{problems[0]}{more}")
    return _to_arrays(path, images, names, found)


class ImageFolders:
    """Finds the pictures of an annotation file in one of several folders.

    In folders called train2017 and val2017 a picture may also be called by its id, `%012d.jpg`:
    COCO 2017 has the pictures of COCO 2014 under such names.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        """
        Args:
            roots: absolute; those that do not exist are passed over.
        """
        self.roots = tuple(roots)
        self._names = {
            root: frozenset(one.name for one in root.iterdir()) for root in roots if root.is_dir()
        }

    def find(self, image: CocoImage, source: Path) -> Path:
        """The file of a picture.

        Args:
            image: the picture.
            source: the annotation file, for the error.

        Raises:
            DatasetError: it is in none of the folders.
        """
        for root, names in self._names.items():
            by_id = f"{image.id:012d}.jpg"
            if image.file_name in names or (
                "/" in image.file_name and os.path.isfile(root / image.file_name)
            ):
                return root / image.file_name
            if root.name in _FOLDERS_BY_ID and by_id in names:
                return root / by_id
        tried = [str(root) + ("" if root in self._names else " (absent)") for root in self.roots]
        raise DatasetError(
            f"{source}: images (id {image.id}): picture {image.file_name!r} is in none of {tried}"
        )


def _read_names(path: Path, items: list[Any], problems: list[Problem]) -> dict[int, str]:
    names: dict[int, str] = {}
    seen: dict[int, str] = {}
    for i, item in enumerate(items):
        reader = FieldReader(path, label("categories", i, item), item, problems)
        category_id, name = reader.unique_id(seen), reader.text("name")
        if category_id is not None and name is not None:
            names[category_id] = name
    return names


def _read_images(path: Path, items: list[Any], problems: list[Problem]) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    for i, item in enumerate(items):
        reader = FieldReader(path, label("images", i, item), item, problems)
        image_id, name, size = reader.integer("id"), reader.text("file_name"), reader.size()
        if image_id is None or name is None or size is None:
            continue
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            reader.problem(f"file_name {name!r} must be relative and stay inside its folder")
        image = CocoImage(image_id, name, *size)
        # Shot files may list a picture once for each of its boxes.
        if images.setdefault(image_id, image) != image:
            reader.problem(f"id {image_id} is already that of {images[image_id].file_name!r}")
    return images


def _read_annotations(
    path: Path,
    items: list[Any],
    images: Mapping[int, CocoImage],
    names: Mapping[int, str],
    problems: list[Problem],
) -> list[tuple[float, ...]]:
    """Rows (image id, annotation id, category id, x, y, w, h, area, crowd)."""
    found: list[tuple[float, ...]] = []
    seen: dict[int, str] = {}
    for i, item in enumerate(items):
        reader = FieldReader(path, label("annotations", i, item), item, problems)
        one, image_id = reader.unique_id(seen), reader.integer("image_id")
        category_id, box = reader.integer("category_id"), _read_box(reader, item)
        crowd = reader.integer("iscrowd", default=0, allowed=(0, 1))
        if one is None or image_id is None or category_id is None or box is None or crowd is None:
            continue
        if image_id not in images:
            reader.problem(f"image_id {image_id} is not in the list 'images'")
        if category_id not in names:
            reader.problem(f"category_id {category_id} is not in the list 'categories'")
        area = item.get("area", box[2] * box[3])
        if not is_number(area):
            reader.problem(f"area must be a number, found {shown(area)}")
            continue
        found.append((image_id, one, category_id, *box, area, crowd))
    return found


def _read_box(reader: FieldReader, item: Any) -> tuple[float, ...] | None:
    value = item.get("bbox") if isinstance(item, dict) else None
    if isinstance(value, list) and len(value) == 4:
        if all(map(is_number, value)):
            return tuple(value)
    reader.problem(f"bbox must be four numbers [x, y, w, h], found {shown(value)}")
    return None


def _to_arrays(
    path: Path,
    images: Mapping[int, CocoImage],
    names: Mapping[int, str],
    found: list[tuple[float, ...]],
) -> CocoFile:
    table = np.array(found, np.float64).reshape(-1, 9)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    ids = table[:, :3].astype(np.int64)
    sizes = [(images[i].width, images[i].height) for i in ids[:, 0].tolist()]
    boxes = _clip(table[:, 3:7], np.array(sizes, np.float64).reshape(-1, 2))
    kept = boxes[:, 2:].min(axis=1, initial=np.inf) > 0
    if not kept.all():
        logger.warning(
            "%s: %d of %d boxes have no area inside their picture and are left out, the first is "
            "that of annotation %d",
            path,
            (~kept).sum(),
            len(kept),
            ids[~kept][0, 1],
        )
    ids, boxes, table = ids[kept], boxes[kept], table[kept]
    return CocoFile(
        path=path,
        images=images,
        names=names,
        annotation_ids=ids[:, 1],
        image_ids=ids[:, 0],
        category_ids=ids[:, 2],
        boxes=boxes,
        areas=table[:, 7],
        crowd=table[:, 8] > 0,
    )


def _clip(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """XYWH boxes (N, 4), those that reach outside cut at the (N, 2) sizes of their pictures."""
    corners, ends = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, :2] + boxes[:, 2:], sizes)
    outside = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, :2] + boxes[:, 2:] > sizes).any(axis=1)
    clipped = np.concatenate([corners, ends - corners], axis=1)
    return np.where(outside[:, None], clipped, boxes)
