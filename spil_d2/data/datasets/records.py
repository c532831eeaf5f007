"""Parsing and validation of an instance-search folder; every problem found is collected.

Folder format (boxes are COCO x, y, w, h in pixels of the stored picture):
    images/            gallery pictures
    annotations.json   {"images": [{id, file_name, width, height}], "annotations": [{id, image_id,
                       instance_id, bbox, segmentation?, iscrowd?}], "instances"?: [{id, name}]}
    queries.json       [{id, file_name, width, height, image_id | null, instance_id | null, bbox,
                       references?: [{file_name, width, height, image_id, bbox}]}]
A gallery file name is relative to `images/`, a query file name to the folder itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...utils.reading import UnreadableFileError, read_json, shown
from .fields import FieldReader, Problem, label

ANNOTATIONS_FILE = "annotations.json"
QUERIES_FILE = "queries.json"
IMAGES_FOLDER = "images"


@dataclass(frozen=True)
class ImageRecord:
    """A gallery picture: `path` is absolute, width and height are in pixels."""

    id: int
    path: Path
    width: int
    height: int
    record: str


@dataclass(frozen=True)
class AnnotationRecord:
    """One box of one instance: `bbox` is XYWH in pixels, clipped to the picture."""

    id: int
    image_id: int
    instance_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int
    segmentation: list[list[float]] | dict[str, Any] | None


@dataclass(frozen=True)
class ReferenceRecord:
    """One picture of a query: `bbox` is XYWH in pixels, clipped to the picture."""

    path: Path
    width: int
    height: int
    image_id: int | None
    bbox: tuple[float, float, float, float]
    record: str


@dataclass(frozen=True)
class QueryRecord:
    """A query with its references, the main one first."""

    id: int
    instance_id: int | None
    references: tuple[ReferenceRecord, ...]


@dataclass
class GalleryRecords:
    """What `annotations.json` says; records with a problem are left out.

    `image_ids` also holds the ids of images left out, so that one bad image is reported once and
    not again by each of its annotations. `instances` maps id to name, None where not listed.
    """

    images: list[ImageRecord] = field(default_factory=list)
    annotations: list[AnnotationRecord] = field(default_factory=list)
    instances: dict[int, str] | None = None
    image_ids: set[int] = field(default_factory=set)


def read_gallery(root: Path, problems: list[Problem]) -> GalleryRecords:
    """Parse `annotations.json`.

    Args:
        root: the data set's folder.
        problems: what is wrong is appended here.
    """
    path = root / ANNOTATIONS_FILE
    gallery = GalleryRecords()
    content = _read_json(path, dict, problems)
    if content is None:
        return gallery
    top = FieldReader(path, "top level", content, problems)
    if content.get("instances") is not None:
        gallery.instances = _read_instances(path, top.list_of("instances"), problems)
    _read_images(root, top.list_of("images"), gallery, problems)
    _read_annotations(path, top.list_of("annotations", required=False), gallery, problems)
    return gallery


def read_queries(root: Path, gallery: GalleryRecords, problems: list[Problem]) -> list[QueryRecord]:
    """Parse `queries.json` and compare it with the gallery.

    Args:
        root: the data set's folder.
        gallery: what `read_gallery` returned for the same folder.
        problems: what is wrong is appended here.
    """
    path = root / QUERIES_FILE
    content = _read_json(path, list, problems)
    queries: list[QueryRecord] = []
    seen: dict[int, str] = {}
    for i, item in enumerate(content or []):
        reader = FieldReader(path, label("queries", i, item), item, problems)
        query_id = reader.unique_id(seen)
        instance_id = reader.integer("instance_id", nullable=True)
        if instance_id is not None and gallery.instances is not None:
            reader.known("instance_id", instance_id, gallery.instances)
        references = [_read_reference(root, reader, gallery)]
        for k, extra in enumerate(reader.list_of("references", required=False)):
            name = f"{reader.record}.references[{k}]"
            references.append(
                _read_reference(root, FieldReader(path, name, extra, problems), gallery)
            )
        complete = tuple(r for r in references if r is not None)
        if query_id is not None and len(complete) == len(references):
            queries.append(QueryRecord(query_id, instance_id, complete))
    return queries


def _read_json(path: Path, kind: type, problems: list[Problem]) -> Any:
    try:
        content = read_json(path)
    except UnreadableFileError as error:
        problems.append(Problem(str(path), "whole file", error.reason))
        return None
    except FileNotFoundError as error:
        problems.append(Problem(str(path), "whole file", f"cannot be read as JSON: {error}"))
        return None
    if not isinstance(content, kind):
        wanted = "an object {...}" if kind is dict else "a list [...]"
        message = f"must hold {wanted}, found {type(content).__name__}"
        problems.append(Problem(str(path), "top level", message))
        return None
    return content


def _read_instances(path: Path, items: list[Any], problems: list[Problem]) -> dict[int, str]:
    names: dict[int, str] = {}
    seen: dict[int, str] = {}
    for i, item in enumerate(items):
        reader = FieldReader(path, label("instances", i, item), item, problems)
        instance_id = reader.unique_id(seen)
        if instance_id is not None:
            names[instance_id] = str(item.get("name", instance_id))
    return names


def _read_images(
    root: Path, items: list[Any], gallery: GalleryRecords, problems: list[Problem]
) -> None:
    seen: dict[int, str] = {}
    for i, item in enumerate(items):
        record = label("images", i, item)
        reader = FieldReader(root / ANNOTATIONS_FILE, record, item, problems)
        image_id = reader.unique_id(seen)
        if image_id is not None:
            gallery.image_ids.add(image_id)
        path = _existing_file(root / IMAGES_FOLDER, reader)
        size = reader.size()
        if image_id is not None and path is not None and size is not None:
            gallery.images.append(ImageRecord(image_id, path, *size, record))


def _existing_file(folder: Path, reader: FieldReader) -> Path | None:
    name = reader.text("file_name")
    if name is None:
        return None
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        reader.problem(f"file_name {name!r} must be relative to {folder} and stay inside it")
        return None
    path = folder / relative
    try:
        is_there = path.is_file()
    except OSError as error:
        reader.problem(f"file_name {shown(name)}: {error.strerror}")
        return None
    if not is_there:
        reader.problem(f"file_name {name!r}: there is no file {path}")
        return None
    return path


def _read_annotations(
    path: Path, items: list[Any], gallery: GalleryRecords, problems: list[Problem]
) -> None:
    sizes = {image.id: (image.width, image.height) for image in gallery.images}
    seen: dict[int, str] = {}
    for i, item in enumerate(items):
        reader = FieldReader(path, label("annotations", i, item), item, problems)
        annotation_id = reader.unique_id(seen)
        image_id = reader.integer("image_id")
        instance_id = reader.integer("instance_id")
        if image_id is not None:
            reader.known("image_id", image_id, gallery.image_ids)
        if instance_id is not None and gallery.instances is not None:
            reader.known("instance_id", instance_id, gallery.instances)
        size = sizes.get(image_id) if image_id is not None else None
        bbox = reader.box(size)
        segmentation = reader.segmentation(size)
        iscrowd = reader.integer("iscrowd", default=0, allowed=(0, 1))
        if annotation_id is None or image_id is None or instance_id is None:
            continue
        if bbox is None or iscrowd is None:
            continue
        gallery.annotations.append(
            AnnotationRecord(annotation_id, image_id, instance_id, bbox, iscrowd, segmentation)
        )


def _read_reference(
    root: Path, reader: FieldReader, gallery: GalleryRecords
) -> ReferenceRecord | None:
    path = _existing_file(root, reader)
    size = reader.size()
    image_id = reader.integer("image_id", nullable=True)
    if image_id is not None:
        reader.known("image_id", image_id, gallery.image_ids)
    bbox = reader.box(size)
    if path is None or size is None or bbox is None:
        return None
    return ReferenceRecord(path, *size, image_id, bbox, reader.record)
