"""Datasets in their publishers' layouts: registration, and what a protocol asks of them.

A loader reads the files once in a process; the catalog and `get_queries` hand out copies.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ...structures.query import Box, Query
from .fields import DatasetError, is_number
from .ins_annotations import image_key
from .instance_search import EVALUATOR_TYPE, get_dataset_root
from .records import IMAGES_FOLDER

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProtocolFacts:
    """What a protocol has to know of a dataset besides its dicts and queries.

    Image names are paths relative to `image_root` without `.jpg`.

    Attributes:
        image_root: folder of the gallery; None takes the file names alone.
        query_names: query id -> name, e.g. `ID_k`; None takes the id as a text.
        galleries: query id -> names of the images of its local gallery.
        global_label, local_label: name the searched images in the key of a metric.
    """

    image_root: Path | None = None
    query_names: Mapping[int, str] | None = None
    galleries: Mapping[int, tuple[str, ...]] | None = None
    global_label: str | None = None
    local_label: str | None = None

    def arguments(self, dataset_dicts: Iterable[dict], gallery_range: str) -> dict[str, Any]:
        """Keyword arguments of `evaluation.dataset_protocol`.

        Args:
            dataset_dicts: the dataset, or a part of it: local galleries lose the other images, and
                the label says so.
            gallery_range: of the protocol's rules.
        """
        label = self.local_label if gallery_range == "local" else self.global_label
        galleries = None
        if self.galleries is not None and gallery_range == "local":
            known = {self.name_of(record["file_name"]) for record in dataset_dicts}
            galleries = {
                query_id: tuple(name for name in names if name in known)
                for query_id, names in self.galleries.items()
            }
            if any(len(galleries[one]) < len(names) for one, names in self.galleries.items()):
                label = f"{label or gallery_range}_part"
        return {
            "image_root": self.image_root,
            "query_names": self.query_names,
            "galleries": galleries,
            "label": label,
        }

    def name_of(self, file_name: str | Path) -> str:
        """The name of an image file in protocols."""
        path = Path(file_name)
        path = Path(path.name) if self.image_root is None else path.relative_to(self.image_root)
        return image_key(path.as_posix())


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset in memory.

    Attributes:
        dicts: Detectron2 dicts as `instance_search.load_gallery` gives them, perhaps with more
            fields ("camera", "image_name").
        queries: in the order of their file.
        facts: for the protocols.
    """

    dicts: Sequence[dict[str, Any]]
    queries: Sequence[Query] = ()
    facts: ProtocolFacts = field(default_factory=ProtocolFacts)

    def copy_dicts(self) -> list[dict[str, Any]]:
        """The dicts, which the caller may change without changing the dataset."""
        return [
            {**record, "annotations": [dict(one) for one in record["annotations"]]}
            for record in self.dicts
        ]


def register_official(name: str, root: str | Path, load: Callable[[], LoadedDataset]) -> bool:
    """Register a dataset for DatasetCatalog, MetadataCatalog, `get_queries` and protocols.

    Nothing is read until the dataset is first used. A name that stands for another folder already
    is left as it is.

    Args:
        name: the name.
        root: the dataset's folder.
        load: reads it; called once, or again after an error.

    Returns:
        Whether the name now stands for this folder.
    """
    folder = str(Path(root).expanduser().resolve())
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name).get("official_root")
        if known != folder:
            logger.warning("%s is taken by another dataset, not registered for %s", name, folder)
        return known == folder
    loaded = functools.cache(load)
    DatasetCatalog.register(name, lambda: loaded().copy_dicts())
    MetadataCatalog.get(name).set(
        evaluator_type=EVALUATOR_TYPE,
        thing_classes=["object"],
        official_root=folder,
        load_queries=lambda: list(loaded().queries),
        load_facts=lambda: loaded().facts,
    )
    return True


def get_protocol_facts(dataset_name: str) -> ProtocolFacts:
    """The facts of a registered dataset, in our folder format or in its publisher's layout.

    Raises:
        KeyError: no instance-search dataset of this name is registered.
        DatasetError: the dataset cannot be read.
    """
    if dataset_name in DatasetCatalog.list():
        load = MetadataCatalog.get(dataset_name).get("load_facts")
        if load is not None:
            return load()
    return ProtocolFacts(image_root=get_dataset_root(dataset_name) / IMAGES_FOLDER)


def make_record(
    path: Path,
    image_id: int,
    size: tuple[int, int],
    boxes: Iterable[tuple[int, Box]],
    **fields: Any,
) -> dict[str, Any]:
    """One Detectron2 dict.

    Args:
        path: of the picture, absolute.
        image_id: of it.
        size: (width, height) in pixels.
        boxes: (identity, XYXY_ABS box inside the picture) of each annotation.
        **fields: further fields of the dict.
    """
    return {
        "file_name": str(path),
        "image_id": image_id,
        "height": size[1],
        "width": size[0],
        "annotations": [
            {
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "instance_id": identity,
                "iscrowd": 0,
            }
            for identity, (x0, y0, x1, y1) in boxes
        ],
        **fields,
    }


def clip_box(box: Box, size: tuple[int, int], where: str) -> Box:
    """A box cut at the borders of its picture.

    Args:
        box: XYXY_ABS in pixels.
        size: (width, height) of the picture.
        where: file and record, for the error.

    Raises:
        DatasetError: nothing of the box is left.
    """
    x0, y0, x1, y1 = box
    if not all(map(is_number, box)):
        raise DatasetError(f"{where}: box {box} is not of finite numbers")
    clipped = (max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1]))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise DatasetError(
            f"{where}: box {box} (corners) has no area in the picture of {size[0]}x{size[1]} "
            "pixels; does the annotation belong to it?"
        )
    return clipped


def xywh_to_corners(xywh: Sequence[float]) -> Box:
    """x, y, width, height -> x0, y0, x1, y1."""
    x, y, width, height = xywh
    return x, y, x + width, y + height
