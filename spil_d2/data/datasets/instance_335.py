"""Instance-160, Instance-251 and Instance-335: frames of tracking videos, one object each.

Their files were never published. What is known of the layout comes from scripts that read it:
`Images/VIDEO/FRAME.jpg`; text files of lines `FRAME x y w h`, in `bbox/` or `merge_bbox/`; and a
list of queries, lines `PATH>ID x1 y1 x2 y2`. Where these scripts leave something open, the rule
here is ours (datasets/README.md): a video is an instance, and queries are frames of the gallery.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ...structures.query import Box, Query, Reference
from .fields import DatasetError
from .image_sizes import read_sizes
from .official import (
    LoadedDataset,
    ProtocolFacts,
    clip_box,
    make_record,
    register_official,
    xywh_to_corners,
)
from .text_files import read_integers, read_lines, read_numbers

logger = logging.getLogger(__name__)

NUMBERS = (160, 251, 335)
QUERY_FILE = "queries.txt"
BOX_FOLDERS = ("bbox", "merge_bbox")


def load_instance_335(root: str | Path) -> LoadedDataset:
    """Load one of the three datasets.

    Args:
        root: holds `Images/`, `bbox/` or `merge_bbox/`, and `queries.txt`.

    Raises:
        DatasetError: naming file and line of what is missing or wrong.
    """
    root = Path(root).expanduser().resolve()
    frames = _list_frames(root / "Images")
    sizes = read_sizes(root, frames)
    boxes = _read_boxes(root, frames, sizes)
    videos = sorted({path.parent.name for path in frames.values()})
    instances = {video: i for i, video in enumerate(videos, start=1)}
    ids = {stem: i for i, stem in enumerate(frames)}
    dicts = [
        make_record(
            path,
            ids[stem],
            sizes[stem],
            [(instances[path.parent.name], boxes[stem])] if stem in boxes else [],
        )
        for stem, path in frames.items()
    ]
    without = len(frames) - len(boxes)
    if without:
        logger.warning("%s: %d of %d frames have no box", root, without, len(frames))
    queries = []
    for query_id, (stem, box) in _read_queries(root / QUERY_FILE, frames, sizes).items():
        path = frames[stem]
        reference = Reference(str(path), *sizes[stem], box, ids[stem])
        queries.append(Query(query_id, (reference,), instances[path.parent.name]))
    return LoadedDataset(dicts, queries, ProtocolFacts(root / "Images"))


def register_instance_335(root: str | Path) -> list[str]:
    """Register the folders `instance160`, `instance251`, `instance335` as `ins_instance...`.

    Args:
        root: folder of dataset folders; those without `queries.txt` are left alone.

    Returns:
        The names that now stand for folders in `root`.
    """
    names = []
    for number in NUMBERS:
        folder = Path(root).expanduser().resolve() / f"instance{number}"
        name = f"ins_instance{number}"
        if (folder / QUERY_FILE).is_file() and register_official(
            name, folder, functools.partial(load_instance_335, folder)
        ):
            names.append(name)
    return names


def _list_frames(folder: Path) -> dict[str, Path]:
    """Stem -> file, sorted by video and frame."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: the folder of images is missing (datasets/README.md)")
    frames: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*.jpg")):
        if path.stem in frames:
            raise DatasetError(
                f"{path}: boxes are named by the frame alone, and {frames[path.stem]} has the same "
                "name; put the video's name before the frame's"
            )
        frames[path.stem] = path
    if not frames:
        raise DatasetError(f"{folder}: holds no VIDEO/FRAME.jpg")
    return frames


def _read_boxes(
    root: Path, frames: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, Box]:
    folders = [root / name for name in BOX_FOLDERS if (root / name).is_dir()]
    if len(folders) != 1:
        raise DatasetError(f"{root}: must hold one of the folders {BOX_FOLDERS}")
    boxes: dict[str, Box] = {}
    for path in sorted(folders[0].rglob("*.txt")):
        for number, fields in read_lines(path, "boxes of frames"):
            if not fields:
                continue
            where, stem = f"{path}:{number}", fields[0]
            if stem not in frames:
                raise DatasetError(f"{where}: there is no Images/VIDEO/{stem}.jpg")
            if stem in boxes:
                raise DatasetError(f"{where}: frame {stem} has a box already; there is one a frame")
            xywh = read_numbers(fields[1:], "x y w h", where)
            boxes[stem] = clip_box(xywh_to_corners(xywh), sizes[stem], where)
    return boxes


def _read_queries(
    path: Path, frames: Mapping[str, Path], sizes: Mapping[str, tuple[int, int]]
) -> dict[int, tuple[str, Box]]:
    """Query id -> (stem of its frame, XYXY_ABS box)."""
    queries: dict[int, tuple[str, Box]] = {}
    for number, fields in read_lines(path, "list of queries"):
        if not fields:
            continue
        where = f"{path}:{number}"
        frame, mark, rest = " ".join(fields).rpartition(">")
        name, *corners = rest.split() or [""]
        if not mark or not name.isdecimal():
            raise DatasetError(f"{where}: a line is PATH>ID x1 y1 x2 y2 with an ID of digits")
        (query_id,) = read_integers([name], "IDs", where)
        # The published scripts hold absolute paths of their authors' machine.
        stem = PurePosixPath(frame).stem
        if stem not in frames:
            raise DatasetError(f"{where}: there is no Images/VIDEO/{stem}.jpg")
        if query_id in queries:
            raise DatasetError(f"{where}: query {query_id} is there twice")
        x0, y0, x1, y1 = read_numbers(corners, "x1 y1 x2 y2", where)
        queries[query_id] = stem, clip_box((x0, y0, x1, y1), sizes[stem], where)
    if not queries:
        raise DatasetError(f"{path}: holds no query")
    return queries
