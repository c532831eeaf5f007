"""Regions of a few dozen pictures as one artefact on disk: what an index run commits step by step.

A segment is published whole or not at all, by whichever process made it. It waits there until its
regions are in the index.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from ..data.pictures import Picture, UnreadablePictureError, read_picture
from ..retrieval import Regions, SearchEngine
from ..utils.artifacts import is_published, publish_directory, read_manifest, write_json_atomic
from .file_table import Outcome

logger = logging.getLogger(__name__)

SEGMENT_IMAGES = 64
WORKING_SIDE = 1024
"""Pictures are reduced to no less than this longer side before an engine resizes them."""

STARTED = ".started"
"""Ending of the file that says which pictures are being read for a segment."""

_REGIONS = "regions.npz"
_BATCH = 8
_ENGINE_ERRORS = (RuntimeError, ValueError, cv2.error)


@dataclass(frozen=True)
class SegmentJob:
    """Pictures to be made into a segment.

    Attributes:
        directory: where it will be published.
        folder: that the paths are relative to.
        files: image id and relative path of each.
    """

    directory: Path
    folder: Path
    files: tuple[tuple[int, str], ...]


def make_segment(engine: SearchEngine, job: SegmentJob) -> Path:
    """Read the pictures, find their regions, and publish the segment.

    Returns:
        Its directory.

    Raises:
        ValueError: the engine fails on every picture of several: it, not they, must be wrong.
    """
    marker = job.directory.with_name(job.directory.name + STARTED)
    write_json_atomic(marker, [list(one) for one in job.files])
    outcomes: list[Outcome] = []
    regions: list[Regions] = []
    for start in range(0, len(job.files), _BATCH):
        batch = job.files[start : start + _BATCH]
        found, judged = _regions(engine, job.folder, batch)
        regions += found
        outcomes += judged
    publish_directory(
        job.directory,
        lambda path: _write(path / _REGIONS, regions),
        {"outcomes": [astuple(one) for one in outcomes]},
    )
    marker.unlink()
    return job.directory


def take_started(segments: Path) -> list[tuple[int, str]]:
    """Image id and path of the pictures of segments that were begun and not published.

    What says so is removed.
    """
    files: list[tuple[int, str]] = []
    for marker in sorted(segments.glob(f"*{STARTED}")):
        if not is_published(marker.with_name(marker.name.removesuffix(STARTED))):
            files += [(image_id, path) for image_id, path in json.loads(marker.read_text())]
        marker.unlink()
    return files


def read_outcomes(directory: Path) -> list[Outcome]:
    """What became of each picture of a published segment."""
    return [Outcome(*one) for one in read_manifest(directory)["outcomes"]]


def read_segment(directory: Path) -> tuple[list[int], list[Regions]]:
    """Image ids and regions of a published segment, boxes in pixels of the displayed pictures.

    Raises:
        ValueError: naming the directory, where its file is damaged.
    """
    ids = [one.id for one in read_outcomes(directory) if not one.error]
    path = directory / _REGIONS
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
            offsets, boxes, saliency = data["offsets"], data["boxes"], data["saliency"]
            embeddings = data["embeddings"].astype(np.float32)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove {directory} and index again"
        ) from error
    pairs = zip(offsets, offsets[1:])
    return ids, [Regions(boxes[a:b], saliency[a:b], embeddings[a:b]) for a, b in pairs]


def _regions(
    engine: SearchEngine, folder: Path, files: Sequence[tuple[int, str]]
) -> tuple[list[Regions], list[Outcome]]:
    pictures: dict[int, Picture] = {}
    errors: dict[int, str] = {}
    for image_id, path in files:
        try:
            pictures[image_id] = read_picture(folder / path, WORKING_SIDE)
        except UnreadablePictureError as error:
            errors[image_id] = error.reason
    found = _embed(engine, pictures, errors)
    outcomes = []
    for image_id, _ in files:
        width, height = (
            (pictures[image_id].width, pictures[image_id].height) if image_id in found else (0, 0)
        )
        outcomes.append(Outcome(image_id, width, height, errors.get(image_id, "")))
    return list(found.values()), outcomes


def _embed(
    engine: SearchEngine, pictures: dict[int, Picture], errors: dict[int, str]
) -> dict[int, Regions]:
    """Regions by image id; a picture that the engine fails on goes into `errors`."""
    try:
        found = dict(zip(pictures, engine.regions([one.pixels for one in pictures.values()])))
    except _ENGINE_ERRORS as error:
        if len(pictures) == 1:
            (image_id,) = pictures
            logger.warning("the engine fails on picture %d: %s", image_id, error)
            errors[image_id] = f"the engine fails on it: {error}"
            return {}
        found = {}
        for image_id, picture in pictures.items():
            found.update(_embed(engine, {image_id: picture}, errors))
        if not found:
            raise ValueError(
                f"the engine fails on each of {len(pictures)} pictures: {error}"
            ) from error
        return found
    return {image_id: _displayed(one, pictures[image_id]) for image_id, one in found.items()}


def _displayed(regions: Regions, picture: Picture) -> Regions:
    boxes = picture.to_displayed(regions.boxes)
    limit = np.array([picture.width, picture.height] * 2, np.float32)
    return Regions(boxes.clip(0, limit), regions.saliency, regions.embeddings)


def _write(path: Path, regions: Sequence[Regions]) -> None:
    counts = [len(one.boxes) for one in regions]
    size = regions[0].embeddings.shape[1] if regions else 0
    with open(path, "wb") as file:
        np.savez(
            file,
            offsets=np.cumsum([0, *counts]).astype(np.int64),
            boxes=np.concatenate([np.zeros((0, 4), np.float32), *(r.boxes for r in regions)]),
            saliency=np.concatenate([np.zeros(0, np.float32), *(r.saliency for r in regions)]),
            embeddings=np.concatenate(
                [
                    np.zeros((0, size), np.float16),
                    *(r.embeddings.astype(np.float16) for r in regions),
                ]
            ),
        )
