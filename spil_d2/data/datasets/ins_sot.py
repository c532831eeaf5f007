"""INS-SOT: an instance-search dataset out of single-object tracking sets.

One track is one identity, some of its frames are its images, and its first frame is the query. It
stands in for Instance-251 (training) and Instance-335 (test), which were never published, and for
the tracks that "Any-ReID" learns from; its numbers are not theirs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...utils.artifacts import fingerprint, publish_directory, read_manifest
from ..pictures import UnreadablePictureError
from .fields import DatasetError
from .image_sizes import displayed_size
from .records import ANNOTATIONS_FILE, IMAGES_FOLDER, QUERIES_FILE
from .text_files import read_lines, read_numbers

logger = logging.getLogger(__name__)

SPLITS = ("train", "test", "all")
RECIPES: dict[str, tuple[int | None, int]] = {
    "train": (251, 231),
    "test": (335, 122),
    "all": (None, 231),
}
"""Split -> (tracks, frames of a track): 251 x 231 = 57,981 and 335 x 122 = 40,870 images at most,
against the 57,971 of Instance-251 and the 40,914 of Instance-335. None: all tracks."""

TRUTH_FILE = "groundtruth.txt"
_TEST_PART = 335 / (251 + 335)
# Raise when the same parameters give another dataset.
_VERSION = 1


@dataclass(frozen=True)
class FrameFilter:
    """Which frames are worth having (GlobalTrack's pre-training, cst.md 3.4).

    Widths and heights are those of the stored x, y, w, h.

    Attributes:
        min_area: in square pixels, exclusive.
        min_side, max_side: of both sides, in pixels, inclusive.
        min_part, max_part: of side / side of the picture, inclusive.
        min_aspect, max_aspect: of w / h, the lower inclusive, the upper exclusive.
    """

    min_area: float = 20.0
    min_side: float = 10.0
    max_side: float = 960.0
    min_part: float = 0.01
    max_part: float = 0.75
    min_aspect: float = 0.2
    max_aspect: float = 5.0

    def keeps(self, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes (N, 4) float64 x y w h on a picture of size (width, height) -> (N,) bool.

        Boxes that reach outside the picture are measured as they are and clipped later; those
        with nothing inside it do not pass.
        """
        sides = boxes[:, 2:]
        parts = sides / np.array(size)
        is_right = sides.prod(axis=1) > self.min_area
        is_right &= ((sides >= self.min_side) & (sides <= self.max_side)).all(axis=1)
        is_right &= ((parts >= self.min_part) & (parts <= self.max_part)).all(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            aspect = sides[:, 0] / sides[:, 1]
        is_right &= (aspect >= self.min_aspect) & (aspect < self.max_aspect)
        corner = np.clip(boxes[:, :2], 0, None)
        end = np.minimum(boxes[:, :2] + sides, np.array(size))
        return is_right & (end - corner >= 1).all(axis=1)


@dataclass(frozen=True)
class Recipe:
    """What is built.

    Attributes:
        split: "train" and "test" never share a track, whatever else is chosen; "all" takes both.
        num_tracks: at most so many, chosen by `seed`; None for all.
        frames: at most so many of a track, evenly spread.
        seed: of the split and the choice.
        copy: copy the pictures; otherwise hard links, which take no space but must be on the same
            disk.
    """

    split: str = "all"
    num_tracks: int | None = None
    frames: int = 231
    seed: int = 0
    copy: bool = False

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}, allowed: {SPLITS}")
        if (
            self.frames < 2
            or self.seed < 0
            or (self.num_tracks is not None and self.num_tracks < 1)
        ):
            raise ValueError(
                f"{self.num_tracks} tracks, {self.frames} frames, seed {self.seed}: at least 1, 2 "
                "and 0 are allowed"
            )

    def order(self, tracks: Iterable[Track]) -> list[Track]:
        """The tracks of the split, those that are taken first in front.

        A track's place depends on its name and the seed alone, so it stays on its side of the line
        when a tree grows.
        """
        drawn = sorted((self._draw(track.name), track.name, track) for track in tracks)
        return [
            track
            for part, _, track in drawn
            if self.split == "all" or (part < _TEST_PART) == (self.split == "test")
        ]

    def _draw(self, name: str) -> float:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Track:
    """One track: `pictures` is its folder of frames, `folder` holds the text files."""

    name: str
    folder: Path
    pictures: Path


@dataclass(frozen=True)
class Frame:
    """A frame that is taken: `xywh` lies inside the picture of `size` (width, height)."""

    path: Path
    size: tuple[int, int]
    xywh: tuple[float, float, float, float]


def find_tracks(root: str | Path) -> list[Track]:
    """All tracks below a folder, by name.

    A track is a folder with `groundtruth.txt` and its frames beside it (GOT-10k) or in `img/`
    (LaSOT). Its name is that of its folder.

    Raises:
        DatasetError: there is no track, or two have the same name.
    """
    root = Path(root).expanduser().resolve()
    found: dict[str, Track] = {}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if TRUTH_FILE not in files:
            continue
        subfolders[:] = []
        path = Path(folder)
        pictures = path / "img" if (path / "img").is_dir() else path
        if path.name in found:
            raise DatasetError(f"{path}: {found[path.name].folder} has the same name")
        found[path.name] = Track(path.name, path, pictures)
    if not found:
        raise DatasetError(f"{root}: no folder below it holds {TRUTH_FILE}: is this LaSOT/GOT-10k?")
    return [found[name] for name in sorted(found)]


def select_frames(track: Track, count: int, keep: FrameFilter) -> list[Frame]:
    """Frames of a track that show its object well, evenly spread over those that do.

    Args:
        track: with one line of `groundtruth.txt` a frame.
        count: at most so many.
        keep: the filter.

    Returns:
        Frames in time order; none where fewer than two pass.

    Raises:
        DatasetError: files of a track that do not fit together, or a picture that cannot be read.
    """
    pictures = sorted(track.pictures.glob("*.jpg"))
    path = track.folder / TRUTH_FILE
    boxes = np.array(
        [
            read_numbers(" ".join(fields).replace(",", " ").split(), "x y w h", f"{path}:{number}")
            for number, fields in read_lines(path, "boxes of a track")
            if fields
        ],
        np.float64,
    ).reshape(-1, 4)
    if len(boxes) != len(pictures) or not len(boxes):
        # Test tracks of GOT-10k tell the first box alone.
        logger.warning("%s: %d boxes for %d frames, left out", path, len(boxes), len(pictures))
        return []
    size = _size(pictures[0])
    rows = np.flatnonzero(keep.keeps(boxes, size) & _is_visible(track, len(boxes)))
    if len(rows) < 2:
        return []
    spread = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    frames = []
    for row in rows[spread]:
        if _size(pictures[row]) != size:
            raise DatasetError(f"{pictures[row]}: another size than {size} of the first frame")
        frames.append(Frame(pictures[row], size, _clip(boxes[row], size)))
    return frames


def build_ins_sot(
    roots: Sequence[str | Path], out: str | Path, recipe: Recipe, keep: FrameFilter | None = None
) -> None:
    """Build the dataset, or keep a complete one that was made with the same parameters.

    Args:
        roots: trees of LaSOT or GOT-10k.
        out: the dataset's folder, for example `$DETECTRON2_DATASETS/ins/sot_335`; it appears whole
            or not at all.
        recipe: what to build.
        keep: the filter of frames.

    Raises:
        DatasetError: see `find_tracks` and `select_frames`; or no track is left.
        ValueError: `out` holds a dataset of other parameters.
        FileExistsError: `out` exists and is no such dataset.
        OSError: a picture cannot be linked or copied.
    """
    keep = keep or FrameFilter()
    tracks = [track for root in roots for track in find_tracks(root)]
    names = [track.name for track in tracks]
    if len(set(names)) != len(names):
        raise DatasetError(f"{list(map(str, roots))}: tracks of the same name in two trees")
    parameters = {
        "version": _VERSION,
        "recipe": asdict(recipe),
        "filter": asdict(keep),
        "tracks": fingerprint(sorted(names)),
    }
    out, key = Path(out).expanduser(), fingerprint(parameters)
    manifest = {**parameters, "fingerprint": key}
    publish_directory(out, lambda folder: _write(folder, tracks, recipe, keep), manifest)
    if read_manifest(out).get("fingerprint") != key:
        raise ValueError(
            f"{out} holds a dataset of other parameters or of other tracks; remove the folder or "
            "choose another one"
        )


def _write(folder: Path, tracks: Sequence[Track], recipe: Recipe, keep: FrameFilter) -> None:
    transfer = shutil.copyfile if recipe.copy else _link
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for track, frames in _chosen(tracks, recipe, keep):
        instances.append({"id": len(instances) + 1, "name": track.name})
        (folder / IMAGES_FOLDER / track.name).mkdir(parents=True)
        for k, frame in enumerate(frames):
            name = f"{track.name}/{frame.path.name}"
            transfer(frame.path, folder / IMAGES_FOLDER / name)
            image_id = len(images) + 1
            size = {"width": frame.size[0], "height": frame.size[1]}
            shown = {"instance_id": len(instances), "bbox": list(frame.xywh)}
            images.append({"id": image_id, "file_name": name, **size})
            annotations.append({"id": image_id, "image_id": image_id, **shown})
            if k == 0:
                query = {"file_name": f"{IMAGES_FOLDER}/{name}", "image_id": image_id}
                queries.append({"id": len(instances), **query, **size, **shown})
    content = {"images": images, "annotations": annotations, "instances": instances}
    (folder / ANNOTATIONS_FILE).write_text(json.dumps(content), encoding="utf-8")
    (folder / QUERIES_FILE).write_text(json.dumps(queries), encoding="utf-8")


def _chosen(
    tracks: Sequence[Track], recipe: Recipe, keep: FrameFilter
) -> Iterator[tuple[Track, list[Frame]]]:
    """Tracks in the order of their draw until there are enough that show something."""
    ordered = recipe.order(tracks)
    wanted = len(ordered) if recipe.num_tracks is None else min(recipe.num_tracks, len(ordered))
    taken = 0
    with tqdm(total=wanted, desc=f"INS-SOT {recipe.split}", unit="track") as bar:
        for track in ordered:
            if taken == wanted:
                break
            frames = select_frames(track, recipe.frames, keep)
            if not frames:
                continue
            taken += 1
            bar.update()
            yield track, frames
    if not taken:
        raise DatasetError(f"none of {len(ordered)} tracks of split {recipe.split!r} is left")
    if recipe.num_tracks is not None and taken < recipe.num_tracks:
        logger.warning("only %d of %d tracks could be had", taken, recipe.num_tracks)


def _is_visible(track: Track, count: int) -> np.ndarray:
    """(count,) bool by the flags that GOT-10k (absence, cover) and LaSOT (the others) come with."""
    visible = np.ones(count, bool)
    for name in ("absence.label", "full_occlusion.txt", "out_of_view.txt"):
        flags = _flags(track.folder / name, count)
        if flags is not None:
            visible &= flags == 0
    cover = _flags(track.folder / "cover.label", count)
    if cover is not None:
        visible &= cover > max(1.0, 0.3 * cover.max())
    return visible


def _flags(path: Path, count: int) -> np.ndarray | None:
    """(count,) float64, one number a frame, in lines or with commas; None without the file."""
    if not path.is_file():
        return None
    words = [
        word
        for _, fields in read_lines(path, "flags of a track")
        for word in " ".join(fields).replace(",", " ").split()
    ]
    if len(words) != count:
        raise DatasetError(f"{path}: {len(words)} numbers for {count} frames")
    return np.array(read_numbers(words, " ".join(["flag"] * count), str(path)))


def _size(path: Path) -> tuple[int, int]:
    try:
        return displayed_size(path)
    except UnreadablePictureError as error:
        raise DatasetError(f"{path}: the picture cannot be read: {error.reason}") from error


def _clip(xywh: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = xywh.tolist()
    x0, y0 = max(x, 0.0), max(y, 0.0)
    return x0, y0, min(x + width, float(size[0])) - x0, min(y + height, float(size[1])) - y0


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        error.add_note(f"{source} cannot be linked; use --copy where it is on another disk")
        raise
