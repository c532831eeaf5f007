"""Protocols from official annotation files, from our own folders and from registered datasets."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..data.datasets.fields import DatasetError
from ..data.datasets.ins_annotations import SearchAnnotations, image_key, read_ins_annotations
from ..data.datasets.instance_search import load_gallery, load_queries
from ..data.datasets.local_gallery import read_local_gallery, synthetic_local_gallery
from ..data.datasets.person_search_annotations import read_cuhk_sysu, read_prw
from ..data.datasets.records import IMAGES_FOLDER
from ..structures import Query
from .ground_truth import GroundTruth
from .ins_protocol import PRESETS, Protocol, ProtocolRules, QueryTruth, build_protocol

logger = logging.getLogger(__name__)

_INS_FILES = MappingProxyType({"ins_prw": "INS_PRW", "ins_cuhk_sysu": "INS_CUHK_SYSU"})


def annotation_protocol(rules: ProtocolRules, annotations: SearchAnnotations) -> Protocol:
    """Apply rules to official annotations.

    An image's id is its position in `annotations.image_names`, a query's id its position in
    `annotations.queries`.

    Args:
        rules: one of `PRESETS`, or a variant of it.
        annotations: boxes, queries, images and, for a local range, galleries.

    Raises:
        ValueError: see `build_protocol`.
    """
    label, galleries = annotations.label, annotations.galleries
    if rules.gallery_range == "local" and galleries is not None:
        label = galleries.label
        if not galleries.is_comparable:
            logger.warning(
                "%s: the local galleries are made up (%s); the numbers are not comparable with "
                "published ones",
                rules.name,
                label,
            )
    image_ids = {name: i for i, name in enumerate(annotations.image_names)}
    return build_protocol(rules, image_ids, _annotation_truths(annotations), label)


def dataset_protocol(
    rules: ProtocolRules,
    dataset_dicts: Sequence[dict],
    queries: Sequence[Query],
    *,
    image_root: str | Path | None = None,
    query_names: Mapping[int, str] | None = None,
    galleries: Mapping[int, tuple[str, ...]] | None = None,
    label: str | None = None,
) -> Protocol:
    """Apply rules to a dataset in Detectron2's form; ids are those of the dataset.

    Args:
        rules: one of `PRESETS`, or a variant of it.
        dataset_dicts: the gallery; annotations carry "instance_id".
        queries: with `instance_id`; one without it is skipped.
        image_root: image names are paths relative to this folder; None takes the file names
            alone. Both without `.jpg`.
        query_names: query id -> name; None takes the id as a text.
        galleries: query id -> names of the images it is searched in.
        label: names the set of searched images in the key; None takes the range.

    Raises:
        ValueError: see `build_protocol`; also for two images of one name.
    """
    names: dict[int, str] = {}
    for record in dataset_dicts:
        path = Path(record["file_name"])
        name = path.name if image_root is None else path.relative_to(image_root).as_posix()
        names[int(record["image_id"])] = image_key(name)
    image_ids = {name: image_id for image_id, name in names.items()}
    if len(image_ids) != len(names):
        raise ValueError(f"{len(names)} images have only {len(image_ids)} names; pass image_root")
    relevant = GroundTruth.from_dataset(dataset_dicts, queries).relevant
    truths = [
        QueryTruth(
            str(query.id) if query_names is None else query_names[query.id],
            query.id,
            tuple(names[i] for i in sorted(query.own_image_ids)),
            query.primary.box[3] - query.primary.box[1],
            tuple(
                (names[image_id], box)
                for image_id, boxes in relevant.get(query.id, {}).items()
                for box in boxes
            ),
            None if galleries is None else galleries[query.id],
        )
        for query in queries
    ]
    return build_protocol(rules, image_ids, truths, label)


def read_protocol(
    name: str,
    folder: str | Path,
    local_gallery: str | Path | None = None,
    more_images: Sequence[str] = (),
) -> Protocol:
    """Read the annotations of a protocol from their official layout, and apply its rules.

    Args:
        name: one of `PRESETS`.
        folder: holds the two txt files (ins_prw, ins_cuhk_sysu), the tree of PRW or CUHK-SYSU, or
            `annotations.json`, `queries.json` and the images (ins).
        local_gallery: the galleries of ins_cuhk_sysu; None makes some up, and the key says so.
        more_images: names of further images that are searched; told in the key.

    Raises:
        ValueError: there is no such protocol, or it takes no `local_gallery` or `more_images`.
        DatasetError: a file is missing or wrong.
    """
    if name not in PRESETS:
        raise ValueError(f"no protocol {name!r}; allowed: {sorted(PRESETS)}")
    if local_gallery is not None and name != "ins_cuhk_sysu":
        raise ValueError(f"{name} takes no local gallery file, only ins_cuhk_sysu does")
    if more_images and name not in ("ins_prw", "prw"):
        raise ValueError(f"{name} takes no further images, only ins_prw and prw do")
    if name == "ins":
        root = Path(folder).expanduser().resolve()
        dicts, queries = load_gallery(root, root.name), load_queries(root)
        with _named(root):
            return dataset_protocol(PRESETS[name], dicts, queries, image_root=root / IMAGES_FOLDER)
    annotations = _read_annotations(name, folder, local_gallery)
    if more_images:
        annotations = annotations.with_images(more_images)
    with _named(folder):
        return annotation_protocol(PRESETS[name], annotations)


@contextlib.contextmanager
def _named(folder: str | Path) -> Iterator[None]:
    """Errors of rules that do not fit annotations name the folder of these."""
    try:
        yield
    except ValueError as error:
        raise DatasetError(f"{folder}: {error}") from error


def _read_annotations(
    name: str, folder: str | Path, local_gallery: str | Path | None
) -> SearchAnnotations:
    if name == "prw":
        return read_prw(folder)
    if name == "cuhk_sysu":
        return read_cuhk_sysu(folder)
    annotations = read_ins_annotations(folder, _INS_FILES[name])
    if name == "ins_prw":
        return annotations
    if local_gallery is None:
        return annotations.with_galleries(synthetic_local_gallery(annotations))
    return annotations.with_galleries(read_local_gallery(local_gallery, annotations))


def _annotation_truths(annotations: SearchAnnotations) -> Iterator[QueryTruth]:
    galleries = annotations.galleries
    for i, query in enumerate(annotations.queries):
        yield QueryTruth(
            query.name,
            i,
            (query.image,),
            query.box[3] - query.box[1],
            tuple((one.image, one.box) for one in annotations.positives(query)),
            None if galleries is None else galleries.images[query.name],
        )
