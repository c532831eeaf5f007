"""INS-PRW, INS-CUHK-SYSU, PRW and CUHK-SYSU: official annotations on a tree of images.

Images lie in one flat folder under their raw names (`c1s1_000151.jpg`), or as CST's released code
has them: `<device>/<file>`, the camera being cut off the name (`c1/s1_000151.jpg`). Both may be
mixed. An image's id is its position in the sorted raw names and a query's id its position in the
official file, so that results fit `evaluation.annotation_protocol` too.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...structures.query import Box, Query, Reference
from .fields import DatasetError
from .image_sizes import read_sizes
from .ins_annotations import (
    UNLABELLED,
    LocalGallery,
    SearchAnnotations,
    camera_of,
    read_ins_annotations,
)
from .local_gallery import read_local_gallery, synthetic_local_gallery
from .official import LoadedDataset, ProtocolFacts, make_record, register_official
from .person_search_annotations import Split, read_cuhk_sysu, read_prw

logger = logging.getLogger(__name__)

INS_FOLDERS = ("images", "valid_images/test_gallery")
"""Where the images of INS-PRW and INS-CUHK-SYSU may lie; the second is the released code's."""
TRAINVAL_FOLDER = "valid_images/trainval"
"""Images without labels in the released code's layout."""

# Sets that are cycled on together must not share image ids.
_FIRST_IDS = {
    "prw_train": 1_000_000,
    "cuhk_sysu_train": 2_000_000,
    "ins_prw_trainval": 3_000_000,
    "ins_cuhk_sysu_trainval": 4_000_000,
}
_DEVICE = re.compile(r"c\d")


@dataclass(frozen=True)
class ImageTree:
    """The pictures of a folder and of the folders in it.

    Attributes:
        root: the folder, absolute.
        paths: raw name without `.jpg` -> file.
    """

    root: Path
    paths: Mapping[str, Path]

    @classmethod
    def scan(cls, root: Path) -> ImageTree:
        """List the `.jpg` files of `root` and of its subfolders; links are followed.

        Raises:
            DatasetError: the folder is missing, or two files have the same raw name.
        """
        paths: dict[str, Path] = {}
        for path in sorted(_pictures(root)):
            name = _raw_name(path, root)
            if name in paths:
                raise DatasetError(
                    f"{path}: its raw name {name} is that of {paths[name]} too; keep one of them"
                )
            paths[name] = path
        return cls(root, paths)

    def find(self, names: Iterable[str], source: Path) -> dict[str, Path]:
        """The files of raw names.

        Args:
            names: without `.jpg`.
            source: where the names come from, for the error.

        Raises:
            DatasetError: naming the first image that is not there.
        """
        names = list(names)
        missing = [name for name in names if name not in self.paths]
        if missing:
            first = missing[0]
            device = f" or {first[:2]}/{first[2:]}.jpg" if _DEVICE.match(first) else ""
            raise DatasetError(
                f"{source}: {len(missing)} of {len(names)} images are not in {self.root}, the "
                f"first is {first}: there is no {first}.jpg{device} (datasets/README.md)"
            )
        return {name: self.paths[name] for name in names}


def load_ins(root: str | Path, prefix: str, all_images: bool = False) -> LoadedDataset:
    """Load INS-PRW or INS-CUHK-SYSU.

    Local galleries come from `PREFIX_local_gallery.txt` beside the annotations; where it is
    missing (it was never published) INS-CUHK-SYSU gets made-up ones, and every key says so.

    Args:
        root: holds the annotation files, or a folder `annotation` with them, and the images.
        prefix: "INS_PRW" or "INS_CUHK_SYSU".
        all_images: search all pictures of the image folder, not only those of the gallery file.

    Raises:
        DatasetError: naming file and record of what is missing or wrong.
    """
    root = Path(root).expanduser().resolve()
    folder = _annotation_folder(root, prefix) or root
    annotations = read_ins_annotations(folder, prefix)
    has_cameras = prefix == "INS_PRW"
    tree = ImageTree.scan(_first_folder(root, INS_FOLDERS))
    if all_images:
        annotations = annotations.with_images(tree.paths)
    local = folder / f"{prefix}_local_gallery.txt"
    if local.is_file():
        annotations = annotations.with_galleries(read_local_gallery(local, annotations))
    elif not has_cameras:
        annotations = annotations.with_galleries(synthetic_local_gallery(annotations))
        logger.warning(
            "%s is missing: local galleries are made up, numbers on them are not comparable with "
            "published ones",
            local,
        )
    return assemble(annotations, tree, root, folder / f"{prefix}_gallery.txt", has_cameras)


def load_prw(root: str | Path, split: Split = "test", first_image_id: int = 0) -> LoadedDataset:
    """Load one half of PRW as published; boxes of nobody in particular are left out.

    Args:
        root: holds `frames/`, `annotations/`, `frame_test.mat`, `query_info.txt`.
        split: "test" has the 2,057 queries, "train" none.
        first_image_id: id of the first image.

    Raises:
        DatasetError: naming file and record of what is missing or wrong.
    """
    root = Path(root).expanduser().resolve()
    annotations = read_prw(root, split)
    tree = ImageTree.scan(root / "frames")
    return assemble(annotations, tree, root, root / f"frame_{split}.mat", True, first_image_id)


def load_cuhk_sysu(
    root: str | Path, split: Split = "test", gallery_size: int = 100, first_image_id: int = 0
) -> LoadedDataset:
    """Load one half of CUHK-SYSU as published; boxes of nobody in particular are left out.

    Args:
        root: holds `annotation/` and `Image/SSM/`.
        split: "test" has the 2,900 queries with their galleries, "train" none.
        gallery_size: images a query, see `read_cuhk_sysu`.
        first_image_id: id of the first image.

    Raises:
        DatasetError: naming file and record of what is missing or wrong.
    """
    root = Path(root).expanduser().resolve()
    annotations = read_cuhk_sysu(root, split, gallery_size)
    tree = ImageTree.scan(root / "Image" / "SSM")
    source = root / "annotation" / "Images.mat"
    return assemble(annotations, tree, root, source, False, first_image_id)


def load_unlabeled(root: str | Path, folder: str, first_image_id: int = 0) -> LoadedDataset:
    """Load pictures without annotations, e.g. those that a cycle learns from.

    Args:
        root: the dataset's folder.
        folder: the pictures, relative to it.
        first_image_id: id of the first image.
    """
    root = Path(root).expanduser().resolve()
    tree = ImageTree.scan(root / folder)
    annotations = SearchAnnotations((), (), tuple(sorted(tree.paths)))
    return assemble(annotations, tree, root, tree.root, False, first_image_id)


def assemble(
    annotations: SearchAnnotations,
    tree: ImageTree,
    root: Path,
    source: Path,
    has_cameras: bool,
    first_image_id: int = 0,
) -> LoadedDataset:
    """Put annotations and images together; sizes are read from headers, boxes clipped.

    Args:
        annotations: of the dataset.
        tree: its images.
        root: the dataset's folder, which holds the tree and the cache of sizes.
        source: the file that names the images, for errors.
        has_cameras: whether raw names start with the camera; the dicts then have "camera".
        first_image_id: id of the first image.

    Raises:
        DatasetError: an image that is missing or cannot be read, or a box outside its image.
    """
    names = annotations.image_names
    wanted = dict.fromkeys((*names, *(query.image for query in annotations.queries)))
    paths = tree.find(wanted, source)
    sizes = read_sizes(root, paths)
    try:
        annotations = annotations.clipped(sizes)
        cameras = {name: camera_of(name) if has_cameras else None for name in names}
    except DatasetError as error:
        raise DatasetError(f"{source}: {error}") from error
    ids = {name: first_image_id + i for i, name in enumerate(names)}
    boxes: dict[str, list[tuple[int, Box]]] = defaultdict(list)
    for one in annotations.boxes:
        if one.identity != UNLABELLED:
            boxes[one.image].append((one.identity, one.box))
    dicts = [
        make_record(
            paths[name],
            ids[name],
            sizes[name],
            boxes[name],
            image_name=name,
            camera=cameras[name],
        )
        for name in names
    ]
    queries = []
    for i, one in enumerate(annotations.queries):
        size, image_id = sizes[one.image], ids.get(one.image)
        reference = Reference(str(paths[one.image]), *size, one.box, image_id)
        queries.append(Query(i, (reference,), one.identity))
    return LoadedDataset(dicts, queries, _facts(annotations, tree, paths))


def register_person_search(root: str | Path) -> list[str]:
    """Register what lies in the folders `ins_prw`, `ins_cuhk_sysu`, `prw` and `cuhk_sysu`.

    Args:
        root: folder of dataset folders; nothing happens where none of them is there.

    Returns:
        The names that now stand for folders in `root`, sorted.
    """
    root = Path(root).expanduser().resolve()
    found: dict[str, tuple[Path, Callable[[], LoadedDataset]]] = {}
    for name, prefix in (("ins_prw", "INS_PRW"), ("ins_cuhk_sysu", "INS_CUHK_SYSU")):
        folder = root / name
        if _annotation_folder(folder, prefix) is not None:
            load = functools.partial(load_ins, folder, prefix)
            found[name] = folder, load
            found[f"{name}_all"] = folder, functools.partial(load, all_images=True)
        if (folder / TRAINVAL_FOLDER).is_dir():
            unlabeled = f"{name}_trainval"
            found[unlabeled] = (
                folder,
                functools.partial(load_unlabeled, folder, TRAINVAL_FOLDER, _FIRST_IDS[unlabeled]),
            )
    for name, marker, reader in (
        ("prw", "frame_{}.mat", load_prw),
        ("cuhk_sysu", "annotation/pool.mat", load_cuhk_sysu),
    ):
        folder, train = root / name, f"{name}_train"
        if (folder / marker.format("test")).is_file():
            found[name] = folder, functools.partial(reader, folder)
        if (folder / marker.format("train")).is_file():
            found[train] = (
                folder,
                functools.partial(reader, folder, "train", first_image_id=_FIRST_IDS[train]),
            )
    return sorted(
        name for name, (folder, load) in found.items() if register_official(name, folder, load)
    )


def _facts(
    annotations: SearchAnnotations, tree: ImageTree, paths: Mapping[str, Path]
) -> ProtocolFacts:
    facts = ProtocolFacts(
        tree.root,
        {i: query.name for i, query in enumerate(annotations.queries)},
        global_label=annotations.label,
    )
    if annotations.galleries is None:
        return facts
    local: LocalGallery = annotations.galleries
    names = {raw: facts.name_of(path) for raw, path in paths.items()}
    galleries = {
        i: tuple(names[raw] for raw in local.images[query.name])
        for i, query in enumerate(annotations.queries)
    }
    return ProtocolFacts(
        facts.image_root, facts.query_names, galleries, facts.global_label, local.label
    )


def _pictures(root: Path) -> list[Path]:
    if not root.is_dir():
        raise DatasetError(f"{root}: the folder of images is missing (datasets/README.md)")
    folders = [root, *(Path(one.path) for one in os.scandir(root) if one.is_dir())]
    return [
        folder / one.name
        for folder in folders
        for one in os.scandir(folder)
        if one.name.endswith(".jpg") and one.is_file()
    ]


def _raw_name(path: Path, root: Path) -> str:
    device = path.parent.name
    if path.parent == root or not _DEVICE.fullmatch(device) or path.stem.startswith(device):
        return path.stem
    return device + path.stem


def _annotation_folder(root: Path, prefix: str) -> Path | None:
    for folder in (root, root / "annotation"):
        if (folder / f"{prefix}_gallery.txt").is_file():
            return folder
    return None


def _first_folder(root: Path, candidates: Iterable[str]) -> Path:
    folders = [root / one for one in candidates]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DatasetError(
        f"{root}: there is none of the image folders {[str(one) for one in folders]} "
        "(datasets/README.md)"
    )
