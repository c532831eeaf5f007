"""The embedded demo gallery: built from scikit-image's photographs in the folder format.

Needs no download. The same parameters give the same files, byte for byte, with the same versions
of numpy, OpenCV and scikit-image.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from tqdm import tqdm

from ...utils.artifacts import fingerprint, publish_directory, read_manifest
from .records import ANNOTATIONS_FILE, IMAGES_FOLDER, QUERIES_FILE
from .synthetic_objects import CUTOUTS, Cutout, cutout_mask, read_photograph
from .synthetic_scene import Placement, Scene, compose_scene

logger = logging.getLogger(__name__)

_QUERIES_FOLDER = "queries"
_LONG_SIDE, _SHORT_SIDE = 320, 240
_QUERY_LONG_SIDE = 400
_JPEG_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 92]
# Raise when the pictures made from the same parameters change.
_GENERATOR_VERSION = 1


@dataclass
class _Files:
    """What goes into the JSON files, filled while the pictures are written."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)


def build_demo_gallery(
    root: str | Path,
    seed: int = 0,
    images_per_instance: int = 9,
    num_instances: int | None = None,
    num_distractors: int = 16,
) -> None:
    """Build the demo gallery, or keep a complete one that has the same parameters.

    Each instance gets two queries: its photograph (external) and its first, uncovered gallery
    image. The folder appears whole or not at all.

    Args:
        root: the data set's folder, for example `$DETECTRON2_DATASETS/ins/demo`.
        seed: source of all chance.
        images_per_instance: gallery images composed for each instance; it may show in a few more.
        num_instances: how many of the instances have images of their own; None for all.
        num_distractors: gallery images without any instance.

    Raises:
        ValueError: a parameter is out of range, or `root` holds a gallery of other parameters.
        FileExistsError: `root` exists and is not a demo gallery.
        FileNotFoundError: scikit-image does not ship a needed photograph.
    """
    instances = [c for c in CUTOUTS if c.is_instance]
    chosen = len(instances) if num_instances is None else num_instances
    if not 1 <= chosen <= len(instances):
        raise ValueError(f"num_instances is {chosen}, allowed: 1 to {len(instances)}")
    if images_per_instance < 1 or num_distractors < 0 or seed < 0:
        raise ValueError(
            f"images_per_instance is {images_per_instance}, num_distractors {num_distractors}, "
            f"seed {seed}; allowed: at least 1, 0 and 0"
        )
    parameters = {
        "generator_version": _GENERATOR_VERSION,
        "seed": seed,
        "images_per_instance": images_per_instance,
        "num_instances": chosen,
        "num_distractors": num_distractors,
    }
    root = Path(root).expanduser()
    key = fingerprint(parameters)

    def write(folder: Path) -> None:
        jobs: list[Cutout | None] = [
            c for c in instances[:chosen] for _ in range(images_per_instance)
        ]
        _write_gallery(folder, seed, jobs + [None] * num_distractors)

    publish_directory(root, write, {**parameters, "fingerprint": key})
    found = read_manifest(root)
    if found.get("fingerprint") != key:
        raise ValueError(
            f"{root} holds a gallery made with {found}, wanted: {parameters}; remove the folder "
            "or choose another one"
        )


def _write_gallery(folder: Path, seed: int, jobs: list[Cutout | None]) -> None:
    """Write the pictures and JSON files; a job is the instance to show or None."""
    (folder / IMAGES_FOLDER).mkdir()
    (folder / _QUERIES_FOLDER).mkdir()
    files = _Files()
    shown: set[str] = set()
    for index, (cutout, scene) in enumerate(_compose_all(seed, jobs)):
        image_id = index + 1
        image = _write_picture(folder / IMAGES_FOLDER / f"{image_id:04d}.jpg", scene.image)
        files.images.append({"id": image_id, **image})
        for placement in scene.placements:
            record = {"id": len(files.annotations) + 1, "image_id": image_id}
            files.annotations.append({**record, **_annotation(placement)})
        if cutout is not None and cutout.name not in shown:
            shown.add(cutout.name)
            _add_queries(folder, cutout, files)
    ids = _instance_ids()
    content = {
        "info": {"description": "spil_d2 demo gallery, composed from scikit-image's photographs"},
        "images": files.images,
        "annotations": files.annotations,
        "categories": [{"id": 1, "name": "object"}],
        "instances": [{"id": i, "name": name} for name, i in ids.items()],
    }
    (folder / ANNOTATIONS_FILE).write_text(json.dumps(content), encoding="utf-8")
    (folder / QUERIES_FILE).write_text(json.dumps(files.queries), encoding="utf-8")


def _compose_all(seed: int, jobs: list[Cutout | None]) -> Iterator[tuple[Cutout | None, Scene]]:
    """Each picture has its own generator: more images leave the earlier ones as they are."""
    previous = None
    for index, cutout in enumerate(tqdm(jobs, desc="demo gallery", unit="image")):
        rng = np.random.default_rng([seed, index])
        is_first = cutout is not None and cutout != previous
        size = (_LONG_SIDE, _SHORT_SIDE) if rng.random() < 0.75 else (_SHORT_SIDE, _LONG_SIDE)
        yield cutout, compose_scene(cutout, size, rng, is_plain=is_first)
        previous = cutout


def _instance_ids() -> dict[str, int]:
    return {c.name: i for i, c in enumerate((c for c in CUTOUTS if c.is_instance), start=1)}


def _annotation(placement: Placement) -> dict[str, Any]:
    mask = placement.mask.astype(np.uint8)
    rle = mask_util.encode(np.asfortranarray(mask))
    return {
        "category_id": 1,
        "instance_id": _instance_ids()[placement.name],
        "bbox": tight_box(mask),
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")},
    }


def tight_box(mask: np.ndarray) -> list[int]:
    """The box [x, y, w, h] in pixels around the non-zero part of a mask (H, W) uint8."""
    return [int(v) for v in cv2.boundingRect(mask)]


def _add_queries(folder: Path, cutout: Cutout, files: _Files) -> None:
    """The photograph itself as external query, then the gallery image written last."""
    photograph, mask = read_photograph(cutout.photograph), cutout_mask(cutout)
    scale = min(1.0, _QUERY_LONG_SIDE / max(mask.shape))
    size = (round(mask.shape[1] * scale), round(mask.shape[0] * scale))
    photograph = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    mask = (cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5).astype(
        np.uint8
    )
    path = folder / _QUERIES_FOLDER / f"{Path(cutout.photograph).stem}.jpg"
    instance_id = _instance_ids()[cutout.name]
    picture = _write_picture(path, photograph)
    external = {
        **picture,
        "file_name": f"{_QUERIES_FOLDER}/{picture['file_name']}",
        "image_id": None,
        "bbox": tight_box(mask),
    }
    image = files.images[-1]
    own = next(
        a
        for a in files.annotations
        if a["image_id"] == image["id"] and a["instance_id"] == instance_id
    )
    internal = {
        "file_name": f"{IMAGES_FOLDER}/{image['file_name']}",
        "width": image["width"],
        "height": image["height"],
        "image_id": image["id"],
        "bbox": own["bbox"],
    }
    for record in (external, internal):
        query_id = len(files.queries) + 1
        files.queries.append({"id": query_id, "instance_id": instance_id, **record})


def _write_picture(path: Path, image: np.ndarray) -> dict[str, Any]:
    """Write RGB uint8 as JPEG; returns file_name (without folders), width and height."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _JPEG_QUALITY):
        raise OSError(f"{path}: the picture cannot be written; is the disk full?")
    return {"file_name": path.name, "width": image.shape[1], "height": image.shape[0]}
