"""The views of a few-shot task as Detectron2 dicts and queries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ...structures.query import Query, Reference
from .few_shot_classes import ClassSplit
from .few_shot_coco import CocoFile, CocoImage, ImageFolders, load_coco
from .few_shot_shots import Shot
from .fields import DatasetError

logger = logging.getLogger(__name__)

# Of the training images, those that choices are made on.
_VAL_PART, _VAL_MAX, _VAL_SEED = 0.1, 1000, 0

Dicts = list[dict[str, Any]]


@dataclass(frozen=True)
class FewShotFiles:
    """The annotations and pictures of a task, read when they are first used.

    Attributes:
        train_json, test_json: COCO-format files with all classes of the split and no others.
        train_roots, test_roots: folders with the pictures, the first that has one counts.
        split: base and novel classes.
        minival: the test images are COCO's minival, so those found in a folder `val2017` must be
            all pictures of that folder.
    """

    train_json: Path
    train_roots: tuple[Path, ...]
    test_json: Path
    test_roots: tuple[Path, ...]
    split: ClassSplit
    minival: bool = False

    @property
    def mark(self) -> str:
        """Tells whether a registered name stands for these files."""
        return f"{self.train_json} {self.test_json} novel {self.split.novel}"

    def train(self) -> CocoFile:
        """The training annotations.

        Raises:
            DatasetError: they cannot be read or have other classes.
        """
        return self._load(self.train_json)

    def test(self) -> CocoFile:
        """As `train`."""
        return self._load(self.test_json)

    def _load(self, path: Path) -> CocoFile:
        coco = load_coco(path)
        coco.check_names(self.split.names)
        return coco

    def held_out(self) -> frozenset[int]:
        """Ids of the training images on which choices are made (`base_val`).

        They depend on the image ids alone: a tenth, at most 1000, drawn with a fixed
        seed.
        """
        ids = sorted(self.train().images)
        count = min(round(_VAL_PART * len(ids)), _VAL_MAX)
        order = np.random.default_rng(_VAL_SEED).permutation(len(ids))
        return frozenset(ids[i] for i in order[:count])

    def base_train(self) -> Dicts:
        """Images with a base box that are not held out; other boxes are dropped."""
        coco, split, held_out = self.train(), self.split, self.held_out()
        rows = coco.rows_by_image(coco.rows_of(split.base))
        shown = [i for i, its in rows.items() if i not in held_out and not coco.crowd[its].all()]
        dicts = self._detection_dicts(shown, rows, contiguous_ids(split.base))
        novel = coco.rows_of(split.novel)
        hidden = np.isin(coco.image_ids[novel], shown).sum()
        logger.info(
            "Base training images: %d of %d with %d boxes of %d base classes; %d boxes of novel "
            "classes in them are without annotation and count as background; %d images are held "
            "out for choices",
            len(dicts),
            len(coco.images),
            sum(len(one["annotations"]) for one in dicts),
            len(split.base),
            hidden,
            len(held_out),
        )
        return dicts

    def base_val(self) -> Dicts:
        """The images held out of `base_train`, with base boxes only."""
        coco = self.train()
        rows = coco.rows_by_image(coco.rows_of(self.split.base))
        return self._detection_dicts(self.held_out(), rows, contiguous_ids(self.split.base))

    def test_dicts(self) -> Dicts:
        """All test images with all boxes.

        Raises:
            DatasetError: a picture is missing, or the images are not those of minival.
        """
        coco, folders = self.test(), ImageFolders(self.test_roots)
        rows = coco.rows_by_image(np.arange(len(coco.boxes)))
        dicts = _detection_dicts(coco, folders, coco.images, rows, contiguous_ids(self.split.ids))
        if self.minival:
            _check_minival(coco, dicts)
        return dicts

    def gallery(self, shots: Iterable[Shot]) -> Dicts:
        """The training images without those of novel shots; boxes of novel classes for judging.

        An annotation's `instance_id` is the dataset's category id.
        """
        split = self.split
        own = {one.image.id for one in shots if one.category_id in split.novel}
        coco, folders = self.train(), ImageFolders(self.train_roots)
        rows = coco.rows_by_image(coco.rows_of(split.novel))
        dicts = []
        for image_id in sorted(set(coco.images) - own):
            record = _record(coco.images[image_id], folders, coco.path)
            for row in rows.get(image_id, ()):
                one = _annotation(coco.boxes[row].tolist(), 0, bool(coco.crowd[row]))
                one["instance_id"] = int(coco.category_ids[row])
                record["annotations"].append(one)
            dicts.append(record)
        logger.info("Gallery: %d images, %d images of shots taken out", len(dicts), len(own))
        return dicts

    def queries(self, shots: Iterable[Shot]) -> list[Query]:
        """One query for each shot of a novel class; its id is that of the annotation."""
        folders = ImageFolders(self.train_roots)
        queries = []
        for one in shots:
            if one.category_id not in self.split.novel:
                continue
            (x, y, w, h), image = one.box, one.image
            # x + w can exceed the width by a rounding step.
            box = (x, y, min(x + w, float(image.width)), min(y + h, float(image.height)))
            path = str(folders.find(image, self.train_json))
            reference = Reference(path, image.width, image.height, box)
            queries.append(
                Query(
                    one.annotation_id,
                    (reference,),
                    instance_id=one.category_id,
                    category_id=one.category_id,
                )
            )
        return queries

    def shot_dicts(self, shots: Iterable[Shot]) -> Dicts:
        """One record for each shot of a base or novel class, as TFA fine-tunes on them."""
        folders, ids = ImageFolders(self.train_roots), contiguous_ids(self.split.ids)
        dicts = []
        for one in shots:
            record = _record(one.image, folders, self.train_json)
            record["annotations"].append(_annotation(list(one.box), ids[one.category_id], False))
            dicts.append(record)
        return dicts

    def _detection_dicts(
        self, image_ids: Iterable[int], rows: Mapping[int, Sequence[int]], ids: Mapping[int, int]
    ) -> Dicts:
        return _detection_dicts(self.train(), ImageFolders(self.train_roots), image_ids, rows, ids)


def contiguous_ids(ids: Sequence[int]) -> dict[int, int]:
    """Category id -> its place among `ids`."""
    return {category_id: place for place, category_id in enumerate(ids)}


def _detection_dicts(
    coco: CocoFile,
    folders: ImageFolders,
    image_ids: Iterable[int],
    rows: Mapping[int, Sequence[int]],
    ids: Mapping[int, int],
) -> Dicts:
    """Detectron2 dicts of some images with the annotations `rows`, contiguous by `ids`."""
    dicts = []
    for image_id in sorted(image_ids):
        record = _record(coco.images[image_id], folders, coco.path)
        for row in rows.get(image_id, ()):
            category_id = ids[int(coco.category_ids[row])]
            one = _annotation(coco.boxes[row].tolist(), category_id, bool(coco.crowd[row]))
            record["annotations"].append(one)
        dicts.append(record)
    return dicts


def _record(image: CocoImage, folders: ImageFolders, source: Path) -> dict[str, Any]:
    return {
        "file_name": str(folders.find(image, source)),
        "image_id": image.id,
        "height": image.height,
        "width": image.width,
        "annotations": [],
    }


def _annotation(box: list[float], category_id: int, is_crowd: bool) -> dict[str, Any]:
    return {
        "bbox": box,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category_id,
        "iscrowd": int(is_crowd),
    }


def _check_minival(coco: CocoFile, dicts: Dicts) -> None:
    """Where test images come from `val2017`, they must be all of it (spec section 6)."""
    folders = {Path(one["file_name"]).parent for one in dicts}
    for folder in sorted(one for one in folders if one.name == "val2017"):
        stems = {one.stem for one in folder.iterdir() if one.suffix == ".jpg"}
        here, asked = {int(one) for one in stems if one.isdigit()}, set(coco.images)
        if here != asked:
            raise DatasetError(
                f"{coco.path}: its {len(asked)} images must be the {len(here)} of {folder}: "
                f"{len(asked - here)} are not there (id {min(asked - here, default=None)}), "
                f"{len(here - asked)} more are (id {min(here - asked, default=None)}); use the "
                "published 5k.json and the whole folder"
            )
