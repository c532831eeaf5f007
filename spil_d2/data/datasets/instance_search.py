"""Instance-search data sets: loading, registration and checking (format: see `records`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ...structures.query import Query, Reference
from ..pictures import UnreadablePictureError
from .fields import DatasetError, Problem
from .image_sizes import displayed_size
from .records import (
    ANNOTATIONS_FILE,
    IMAGES_FOLDER,
    QUERIES_FILE,
    AnnotationRecord,
    GalleryRecords,
    ImageRecord,
    QueryRecord,
    ReferenceRecord,
    read_gallery,
    read_queries,
)

logger = logging.getLogger(__name__)

PREFIX = "ins_"
EVALUATOR_TYPE = "instance_search"

# Wraps a sequence that is walked through once, as tqdm does.
Progress = Callable[[Sequence[Any]], Iterable[Any]]


def load_gallery(root: str | Path, name: str) -> list[dict[str, Any]]:
    """Load the gallery of a data set as Detectron2 dicts; no picture is opened.

    Args:
        root: the data set's folder.
        name: the data set's name, for the log.

    Returns:
        One dict an image: file_name (absolute), image_id, height, width and annotations, each with
        bbox (XYWH_ABS in pixels of the stored picture), category_id 0, instance_id, iscrowd and,
        where known, segmentation (polygons or compressed RLE). Images without ground truth have
        an empty list.

    Raises:
        DatasetError: at the first structural problem, naming file and record.
    """
    root = Path(root).expanduser().resolve()
    problems: list[Problem] = []
    gallery = read_gallery(root, problems)
    _raise_first(problems, root)
    per_image: dict[int, list[dict[str, Any]]] = {image.id: [] for image in gallery.images}
    for annotation in gallery.annotations:
        per_image[annotation.image_id].append(_to_annotation_dict(annotation))
    dicts = [
        {
            "file_name": str(image.path),
            "image_id": image.id,
            "height": image.height,
            "width": image.width,
            "annotations": per_image[image.id],
        }
        for image in gallery.images
    ]
    logger.info(
        "Loaded %s: %d images, %d boxes from %s", name, len(dicts), len(gallery.annotations), root
    )
    return dicts


def load_queries(root: str | Path) -> list[Query]:
    """Load the queries of a data set in the order of the file; no picture is opened.

    Args:
        root: the data set's folder.

    Returns:
        Queries with absolute file names and XYXY_ABS boxes in pixels of the stored picture.

    Raises:
        DatasetError: at the first structural problem, naming file and record.
    """
    root = Path(root).expanduser().resolve()
    problems: list[Problem] = []
    records = read_queries(root, read_gallery(root, problems), problems)
    _raise_first(problems, root)
    return [_to_query(record) for record in records]


def get_queries(dataset_name: str) -> list[Query]:
    """The queries of a registered data set, in our folder format or in its publisher's layout.

    Raises:
        KeyError: no instance-search data set of this name is registered.
        DatasetError: as `load_queries`.
    """
    if dataset_name in DatasetCatalog.list():
        load = MetadataCatalog.get(dataset_name).get("load_queries")
        if load is not None:
            return load()
    return load_queries(get_dataset_root(dataset_name))


def get_dataset_root(dataset_name: str) -> Path:
    """The folder of a registered instance-search data set in our format.

    Raises:
        KeyError: no instance-search data set of this name is registered, or it is one in its
            publisher's layout, which has no such folder.
    """
    registered = DatasetCatalog.list()
    if dataset_name in registered:
        metadata = MetadataCatalog.get(dataset_name)
        root = metadata.get("queries_root")
        if root is not None:
            return Path(root)
        if metadata.get("official_root") is not None:
            raise KeyError(
                f"{dataset_name} lies in its publisher's layout in {metadata.official_root}, "
                f"without {ANNOTATIONS_FILE}; take it by its name from DatasetCatalog and "
                "get_queries"
            )
    kinds = {name: MetadataCatalog.get(name).get("evaluator_type") for name in registered}
    available = sorted(name for name, kind in kinds.items() if kind == EVALUATOR_TYPE)
    raise KeyError(
        f"no instance-search data set {dataset_name!r}; available: {available}. A folder "
        f"$DETECTRON2_DATASETS/ins/NAME with {ANNOTATIONS_FILE} and {QUERIES_FILE} becomes "
        f"{PREFIX}NAME (datasets/README.md)"
    )


def register_instance_search(name: str, root: str | Path) -> None:
    """Register one folder; it is read when the data set is first used.

    Registering the same name with the same folder again does nothing.

    Args:
        name: the name for DatasetCatalog and MetadataCatalog, by custom `ins_NAME`.
        root: the data set's folder.

    Raises:
        ValueError: the name is taken by another folder or another kind of data set.
    """
    folder = Path(root).expanduser().resolve()
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name).get("queries_root")
        if known == str(folder):
            return
        raise ValueError(
            f"data set {name!r} is already registered with {known or 'another loader'}, it cannot "
            f"stand for {folder} too; choose another name"
        )
    DatasetCatalog.register(name, lambda: load_gallery(folder, name))
    MetadataCatalog.get(name).set(
        evaluator_type=EVALUATOR_TYPE,
        thing_classes=["object"],
        image_root=str(folder / IMAGES_FOLDER),
        queries_root=str(folder),
    )


def register_all_instance_search(root: str | Path, keep_taken: bool = False) -> list[str]:
    """Register every folder NAME in `root` that holds both JSON files, as `ins_NAME`.

    Args:
        root: folder of data set folders; nothing happens where it does not exist.
        keep_taken: leave names that stand for another folder as they are instead of raising.

    Returns:
        The names that now stand for a folder in `root`, sorted.

    Raises:
        ValueError: a name is taken by another folder and `keep_taken` is False.
    """
    root = Path(root).expanduser().resolve()
    if not root.is_dir():
        return []
    names = []
    for folder in sorted(root.iterdir()):
        # A leading dot marks a folder that is still being written.
        if folder.name.startswith(".") or not _is_dataset_folder(folder):
            continue
        name = PREFIX + folder.name
        is_taken = name in DatasetCatalog.list()
        if keep_taken and is_taken:
            if MetadataCatalog.get(name).get("queries_root") != str(folder.resolve()):
                continue
        register_instance_search(name, folder)
        names.append(name)
    return names


def check_dataset(
    root: str | Path, decode: bool = True, progress: Progress = iter
) -> list[Problem]:
    """Find everything that is wrong with a data set.

    Args:
        root: the data set's folder.
        decode: read every picture whole; otherwise only its header (format and size).
        progress: wraps the sequence of pictures while they are read, as tqdm does.

    Returns:
        All problems, those of the JSON files first; empty for a sound data set.
    """
    root = Path(root).expanduser().resolve()
    problems: list[Problem] = []
    gallery = read_gallery(root, problems)
    queries = read_queries(root, gallery, problems)
    _check_own_images(root, gallery, queries, problems)
    references = [reference for query in queries for reference in query.references]
    seen: set[tuple[Path, int, int]] = set()
    for picture in progress([*gallery.images, *references]):
        key = (picture.path, picture.width, picture.height)
        if key not in seen:
            seen.add(key)
            _check_picture(picture, decode, problems)
    return problems


def _raise_first(problems: list[Problem], root: Path) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DatasetError(
            f"{problems[0]}{more}; `python tools/check_dataset.py {root}` lists every problem"
        )


def _to_annotation_dict(annotation: AnnotationRecord) -> dict[str, Any]:
    result: dict[str, Any] = {
        "bbox": list(annotation.bbox),
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "instance_id": annotation.instance_id,
        "iscrowd": annotation.iscrowd,
    }
    segmentation = annotation.segmentation
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
    if segmentation is not None:
        result["segmentation"] = segmentation
    return result


def _to_query(record: QueryRecord) -> Query:
    references = []
    for r in record.references:
        x, y, w, h = r.bbox
        # x + (x1 - x) can exceed x1 by a rounding step, and a Reference must lie inside.
        box = (x, y, min(x + w, float(r.width)), min(y + h, float(r.height)))
        references.append(Reference(str(r.path), r.width, r.height, box, r.image_id))
    return Query(record.id, tuple(references), record.instance_id)


def _is_dataset_folder(folder: Path) -> bool:
    try:
        return (folder / ANNOTATIONS_FILE).is_file() and (folder / QUERIES_FILE).is_file()
    except PermissionError as error:
        logger.warning("Skipped a folder that cannot be read: %s", error)
        return False


def _check_own_images(
    root: Path, gallery: GalleryRecords, queries: list[QueryRecord], problems: list[Problem]
) -> None:
    """A reference that names a gallery image must have that image's size."""
    sizes = {image.id: (image.width, image.height) for image in gallery.images}
    for reference in (r for query in queries for r in query.references):
        expected = sizes.get(reference.image_id) if reference.image_id is not None else None
        if expected is not None and expected != (reference.width, reference.height):
            message = (
                f"size is {reference.width}x{reference.height}, but gallery image "
                f"{reference.image_id} has {expected[0]}x{expected[1]}"
            )
            problems.append(Problem(str(root / QUERIES_FILE), reference.record, message))


def _check_picture(
    picture: ImageRecord | ReferenceRecord, decode: bool, problems: list[Problem]
) -> None:
    try:
        width, height = displayed_size(picture.path, decode)
    except UnreadablePictureError as error:
        message = f"the picture cannot be read: {error.reason}"
        problems.append(Problem(str(picture.path), picture.record, message))
        return
    if (width, height) != (picture.width, picture.height):
        message = (
            f"the picture has {width}x{height} pixels, the JSON file says "
            f"{picture.width}x{picture.height}"
        )
        problems.append(Problem(str(picture.path), picture.record, message))
