"""A user's shots and unlabeled pictures, as upright 8-bit copies that training can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...data.datasets.few_shot_coco import ImageFolders, load_coco
from ...data.pictures import Picture, UnreadablePictureError, read_picture
from ...structures import Box, Query, Reference
from ...utils.artifacts import publish_directory, write_json_atomic
from ..folder_scan import scan_folder
from ..segments import WORKING_SIDE

logger = logging.getLogger(__name__)

ANNOTATIONS = "annotations.json"
_INDEX, _IMAGES, _SHOTS = "index.json", "images", "shots"
_JPEG_QUALITY = 95
_SHOWN_FILES = 5


@dataclass(frozen=True)
class OwnShot:
    """One example of a class.

    Attributes:
        name: of the class.
        path: of the picture.
        box: XYXY_ABS in pixels of the picture as displayed; None: the whole picture.
    """

    name: str
    path: Path
    box: Box | None = None


@dataclass(frozen=True)
class OwnTask:
    """What a detector of a user's classes is made from.

    Attributes:
        classes: names, in the order of the detector's `pred_classes`.
        gallery: Detectron2 dicts of the unlabeled pictures' copies, without annotations.
        queries: one a shot; `category_id` is the place of its class.
        sources: image id -> path of the original, relative to the folder.
    """

    classes: tuple[str, ...]
    gallery: list[dict]
    queries: list[Query]
    sources: dict[int, str]


def read_shots(folder: Path) -> list[OwnShot]:
    """The shots in a folder.

    Either `annotations.json` in COCO format lies in it, its pictures beside it or in `images/`, or
    each subfolder is a class and each picture in it shows one object that fills it.

    Raises:
        ValueError: neither is there, or a class has no shot; a DatasetError names the record.
        OSError: the folder cannot be listed.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder of shots")
    if (folder / ANNOTATIONS).is_file():
        shots = _annotated_shots(folder)
    else:
        shots = _pictured_shots(folder)
    if not shots:
        raise ValueError(
            f"{folder} holds no shots: put {ANNOTATIONS} (COCO format) and its pictures there, or "
            "a folder with pictures for each class"
        )
    return shots


def _annotated_shots(folder: Path) -> list[OwnShot]:
    coco = load_coco((folder / ANNOTATIONS).absolute())
    folders = ImageFolders([folder, folder / _IMAGES])
    shots = []
    for row in np.flatnonzero(~coco.crowd).tolist():
        x, y, w, h = coco.boxes[row].tolist()
        path = folders.find(coco.images[int(coco.image_ids[row])], coco.path)
        name = coco.names[int(coco.category_ids[row])]
        shots.append(OwnShot(name, Path(path), (x, y, x + w, y + h)))
    return shots


def _pictured_shots(folder: Path) -> list[OwnShot]:
    shots = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if place.name.startswith("."):
            continue
        found = [OwnShot(place.name, place / one.path) for one in _pictures(place)]
        if not found:
            raise ValueError(f"{place} is the folder of a class, but holds no pictures")
        shots += found
    return shots


def _pictures(folder: Path, skipped: Path | None = None) -> list:
    return [one for one in scan_folder(folder, skipped) if not one.error]


def publish_task(shots: Sequence[OwnShot], unlabeled: Path, target: Path, skipped: Path) -> None:
    """Copy pictures into a directory that appears whole.

    Pictures that are shots are no unlabeled ones; those that cannot be read are left out.

    Args:
        shots: at least one.
        unlabeled: folder of pictures.
        target: to publish; `load_task` reads it.
        skipped: a folder below `unlabeled` that is none of its pictures.

    Raises:
        UnreadablePictureError: a shot cannot be read.
        ValueError: a box lies outside its picture, or no unlabeled picture can be read.
    """
    publish_directory(target, lambda path: _write(path, shots, unlabeled, skipped), {})


def _write(path: Path, shots: Sequence[OwnShot], unlabeled: Path, skipped: Path) -> None:
    (path / _SHOTS).mkdir()
    (path / _IMAGES).mkdir()
    classes = sorted({one.name for one in shots})
    shown = [_copy_shot(one, i, classes, path) for i, one in enumerate(shots, 1)]
    own = {one.path.resolve() for one in shots}
    images, unreadable = [], []
    for one in tqdm(_pictures(unlabeled, skipped), "reading pictures", unit="picture"):
        source = unlabeled / one.path
        if source.resolve() in own:
            continue
        try:
            picture = read_picture(source, WORKING_SIDE)
        except UnreadablePictureError as error:
            unreadable.append(f"{one.path}: {error.reason}")
            continue
        number = len(images) + 1
        name = f"{_IMAGES}/{number:09d}.jpg"
        images.append(
            {"id": number, "source": one.path, "file_name": name, **_save(picture, path / name)}
        )
    if unreadable:
        head = "; ".join(unreadable[:_SHOWN_FILES])
        logger.warning("%d pictures cannot be read: %s", len(unreadable), head)
    if not images:
        raise ValueError(f"{unlabeled} holds no picture that can be read, beside the shots")
    content = {"classes": classes, "shots": shown, "images": images, "unreadable": unreadable}
    write_json_atomic(path / _INDEX, content)


def _copy_shot(shot: OwnShot, number: int, classes: Sequence[str], path: Path) -> dict:
    picture = read_picture(shot.path, WORKING_SIDE)
    name = f"{_SHOTS}/{number:06d}.jpg"
    size = _save(picture, path / name)
    box = [0.0, 0.0, float(picture.width), float(picture.height)]
    if shot.box is not None:
        box = list(shot.box)
    x0, y0, x1, y1 = picture.from_displayed(np.array([box]))[0].tolist()
    inside = [max(x0, 0.0), max(y0, 0.0), min(x1, size["width"]), min(y1, size["height"])]
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(
            f"{shot.path}: the box {box} lies outside the picture of {picture.width}x"
            f"{picture.height} pixels (as displayed)"
        )
    return {"class": classes.index(shot.name), "file_name": name, "box": inside, **size}


def _save(picture: Picture, path: Path) -> dict[str, int]:
    Image.fromarray(picture.pixels).save(path, quality=_JPEG_QUALITY)
    return {"width": picture.pixels.shape[1], "height": picture.pixels.shape[0]}


def load_task(directory: Path) -> OwnTask:
    """Read what `publish_task` has published."""
    content = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
    gallery = [
        {
            "file_name": str(directory / one["file_name"]),
            "image_id": one["id"],
            "width": one["width"],
            "height": one["height"],
            "annotations": [],
        }
        for one in content["images"]
    ]
    queries = []
    for number, one in enumerate(content["shots"], 1):
        x0, y0, x1, y1 = one["box"]
        file_name = str(directory / one["file_name"])
        reference = Reference(file_name, one["width"], one["height"], (x0, y0, x1, y1))
        queries.append(Query(number, (reference,), category_id=one["class"]))
    sources = {one["id"]: one["source"] for one in content["images"]}
    return OwnTask(tuple(content["classes"]), gallery, queries, sources)
