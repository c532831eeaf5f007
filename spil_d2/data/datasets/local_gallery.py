"""Where the image lists of a local protocol come from: a file, or a fixed draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .fields import DatasetError
from .ins_annotations import (
    LocalGallery,
    SearchAnnotations,
    image_key,
)
from .text_files import read_integers, read_lines


def read_local_gallery(path: str | Path, annotations: SearchAnnotations) -> LocalGallery:
    """Read a file of local galleries.

    The official `INS_CUHK_SYSU_local_gallery.txt` was never published together with code that
    reads it. A line may be `ID image image ...`, `ID image`, or `ID left top right bottom image`
    (four integers in the middle); the lines of an ID add up, and hold for all queries of the ID.

    Args:
        path: the file.
        annotations: the queries and the images that may be named.

    Raises:
        DatasetError: with file and line number: an unknown ID or image, or a line without image;
            or a query's ID without any line.
    """
    path = Path(path)
    known = frozenset(annotations.image_names)
    identities = {query.identity for query in annotations.queries}
    # A dict keeps the order of the file and drops repetitions.
    images: dict[int, dict[str, None]] = {identity: {} for identity in identities}
    for number, fields in read_lines(path, "local gallery"):
        where = f"{path}:{number}"
        identity = _identity(fields, identities, where)
        for name in map(image_key, _images(fields)):
            if name not in known:
                raise DatasetError(
                    f"{where}: image {name!r} is none of the {len(known)} images of the annotations"
                )
            images[identity][name] = None
    empty = sorted(identity for identity, names in images.items() if not names)
    if empty:
        raise DatasetError(
            f"{path}: no image for {len(empty)} of {len(images)} IDs with a query, the first is ID "
            f"{empty[0]}; every query needs a gallery"
        )
    return LocalGallery(
        {query.name: tuple(images[query.identity]) for query in annotations.queries}
    )


def synthetic_local_gallery(
    annotations: SearchAnnotations, size: int = 100, seed: int = 0
) -> LocalGallery:
    """Make up local galleries: the query's positive images, filled up with other images.

    The list of a query depends on its name, `size` and `seed` alone. **Numbers on these lists are
    not comparable with published ones**; the label says so in every metric key.

    Args:
        annotations: the queries and the images to draw from.
        size: images a query, more where the positives alone are more.
        seed: of the draw.

    Returns:
        Positive images first, in file order, then the drawn ones. The query's own image is never
        in its list.
    """
    names = annotations.image_names
    position = {name: i for i, name in enumerate(names)}
    images = {}
    for query in annotations.queries:
        positives = tuple(dict.fromkeys(one.image for one in annotations.positives(query)))
        is_free = np.ones(len(names), bool)
        is_free[[position[name] for name in (*positives, query.image) if name in position]] = False
        free = np.flatnonzero(is_free)
        rng = np.random.default_rng([seed, *query.name.encode()])
        count = min(max(size - len(positives), 0), len(free))
        drawn = rng.choice(free, count, replace=False)
        images[query.name] = (*positives, *(names[i] for i in drawn))
    return LocalGallery(images, f"local_synthetic{size}_seed{seed}", is_comparable=False)


def _identity(fields: Sequence[str], identities: set[int], where: str) -> int:
    if len(fields) < 2:
        raise DatasetError(f"{where}: {len(fields)} fields, a line is: ID image [image ...]")
    (identity,) = read_integers(fields[:1], "IDs", where)
    if identity not in identities:
        raise DatasetError(f"{where}: ID {identity} has no query; {len(identities)} IDs have one")
    return identity


def _images(fields: Sequence[str]) -> Sequence[str]:
    is_box = len(fields) == 6 and all(map(_is_integer, fields[1:5]))
    return fields[5:] if is_box else fields[1:]


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
