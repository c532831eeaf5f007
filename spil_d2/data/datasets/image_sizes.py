"""Sizes of pictures from their headers, kept in a file so that a large tree is opened once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from ...utils.artifacts import write_json_atomic
from ...utils.reading import UnreadableFileError, read_json
from ..pictures import UnreadablePictureError, open_picture, orientation_of
from .fields import DatasetError

logger = logging.getLogger(__name__)

SIZES_FILE = ".image_sizes.json"

# Orientations 5 to 8 turn the picture by 90 degrees, which exchanges width and height.
_EXIF_TURNED = (5, 6, 7, 8)


def displayed_size(path: Path, decode: bool = False) -> tuple[int, int]:
    """(width, height) in pixels after the turn that EXIF asks for, as `read_image` returns it.

    Args:
        path: of the picture.
        decode: read it whole, which finds pictures that are cut off; otherwise only its header.

    Raises:
        UnreadablePictureError: it is none that can be read.
    """
    with open_picture(path) as picture:
        if decode:
            picture.load()
        width, height = picture.size
        return (height, width) if orientation_of(picture) in _EXIF_TURNED else (width, height)


def read_sizes(root: Path, paths: Mapping[str, Path]) -> dict[str, tuple[int, int]]:
    """The sizes of pictures below a folder.

    Sizes of files that have neither grown nor changed since are taken from ROOT/.image_sizes.json;
    the others are read and added to it. A folder that cannot be written to costs time, no more.

    Args:
        root: the dataset's folder.
        paths: name -> file below `root`.

    Returns:
        Name -> (width, height) in pixels, see `displayed_size`.

    Raises:
        DatasetError: a picture that is missing or whose header cannot be read.
    """
    known = _read_known(root / SIZES_FILE)
    sizes: dict[str, tuple[int, int]] = {}
    unknown: list[tuple[str, str, list[int]]] = []
    for name, path in paths.items():
        mark, key = _mark(path), path.relative_to(root).as_posix()
        entry = known.get(key)
        if entry is not None and entry[:2] == mark:
            sizes[name] = entry[2], entry[3]
        else:
            unknown.append((name, key, mark))
    for name, key, mark in tqdm(unknown, "image sizes", unit="image", disable=len(unknown) < 500):
        sizes[name] = _read_size(paths[name])
        known[key] = [*mark, *sizes[name]]
    if unknown:
        _write_known(root / SIZES_FILE, known)
    return sizes


def _mark(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: the picture is missing: {error}") from error
    return [status.st_mtime_ns, status.st_size]


def _read_size(path: Path) -> tuple[int, int]:
    try:
        return displayed_size(path)
    except UnreadablePictureError as error:
        raise DatasetError(f"{path}: the picture cannot be read: {error.reason}") from error


def _read_known(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (FileNotFoundError, UnreadableFileError) as error:
        logger.warning("%s cannot be read and is made again: %s", path, error)
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {key: entry for key, entry in entries if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    is_numbers = isinstance(entry, list) and all(type(one) is int for one in entry)
    return is_numbers and len(entry) == 4 and min(entry) >= 0 and min(entry[2:]) > 0


def _write_known(path: Path, known: Mapping[str, list[int]]) -> None:
    try:
        write_json_atomic(path, known)
    except OSError as error:
        logger.info("%s cannot be written, sizes are read again next time: %s", path, error)
