"""The official annotation files of INS-PRW and INS-CUHK-SYSU, and what a search of them means.

`NAME_gallery.txt` and `NAME_query.txt` hold one box a line: `ID left top right bottom image`,
integers, corners in pixels, the image without folder (`.jpg` may be there or not). A query is
called `ID_k`, k counting the query lines of its ID from 0. The camera is the digit after a leading
`c`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ...structures.query import Box
from .fields import DatasetError
from .text_files import read_integers, read_lines

UNLABELLED = -1
"""The identity of a box of nobody in particular: never a positive."""

_CAMERA = re.compile(r"c(\d)")


@dataclass(frozen=True, slots=True)
class AnnotatedBox:
    """One box of one identity: `box` is XYXY_ABS in pixels of the stored image."""

    identity: int
    image: str
    box: Box


@dataclass(frozen=True, slots=True)
class AnnotatedQuery:
    """One query: `name` is `ID_k`, `box` is XYXY_ABS in pixels of the stored image."""

    name: str
    identity: int
    image: str
    box: Box


@dataclass(frozen=True)
class LocalGallery:
    """The images that each query of a local protocol is searched in.

    Attributes:
        images: query name -> image names without `.jpg`, no image twice.
        label: names the lists in the key of a metric; "local" for lists from a file.
        is_comparable: False for lists that were made up: numbers on them say nothing about the
            paper's.
    """

    images: Mapping[str, tuple[str, ...]]
    label: str = "local"
    is_comparable: bool = True


@dataclass(frozen=True)
class SearchAnnotations:
    """Who is where, who is searched for, and in which images.

    Attributes:
        boxes: all boxes, in the order of the file.
        queries: in the order of the file.
        image_names: the images that may be searched, sorted, without `.jpg`; a query's own image
            need not be among them.
        galleries: the images that each query is searched in, for the local protocols.
        label: names the set of images in the key of a metric.
    """

    boxes: tuple[AnnotatedBox, ...]
    queries: tuple[AnnotatedQuery, ...]
    image_names: tuple[str, ...]
    galleries: LocalGallery | None = None
    label: str = "global"

    @cached_property
    def identities(self) -> tuple[int, ...]:
        """The identities that have a box, sorted."""
        return tuple(sorted(self._boxes_of))

    @cached_property
    def _boxes_of(self) -> Mapping[int, list[AnnotatedBox]]:
        boxes: dict[int, list[AnnotatedBox]] = defaultdict(list)
        for one in self.boxes:
            if one.identity != UNLABELLED:
                boxes[one.identity].append(one)
        return boxes

    def positives(self, query: AnnotatedQuery) -> tuple[AnnotatedBox, ...]:
        """The boxes of the query's identity outside the query's own image, in file order.

        Those of the query's own camera are among them; a protocol may take them out.
        """
        found = self._boxes_of.get(query.identity, ())
        return tuple(one for one in found if one.image != query.image)

    def with_images(self, names: Iterable[str]) -> SearchAnnotations:
        """The same search in more images, e.g. all 6,112 test frames of PRW.

        Args:
            names: with or without `.jpg`; those already there are no matter.
        """
        images = tuple(sorted({*self.image_names, *map(image_key, names)}))
        return replace(self, image_names=images, label=f"global_{len(images)}_images")

    def with_galleries(self, galleries: LocalGallery) -> SearchAnnotations:
        """The same search with an image list for each query."""
        return replace(self, galleries=galleries)

    def clipped(self, sizes: Mapping[str, tuple[int, int]]) -> SearchAnnotations:
        """The same boxes cut at the borders of the images; three of INS-PRW end one pixel outside.

        Args:
            sizes: image name without `.jpg` -> (width, height) in pixels. Boxes of other images
                stay as they are.

        Raises:
            DatasetError: a box that lies outside its image altogether.
        """
        return replace(
            self,
            boxes=tuple(replace(one, box=_clip(one, sizes)) for one in self.boxes),
            queries=tuple(replace(one, box=_clip(one, sizes)) for one in self.queries),
        )


def image_key(name: str) -> str:
    """The name of an image without its `.jpg`, as the annotation files write it."""
    return name.removesuffix(".jpg")


def camera_of(image: str) -> int:
    """The camera of an image: the digit of a name that starts with `c<digit>`.

    Raises:
        DatasetError: the name starts with something else.
    """
    found = _CAMERA.match(image)
    if found is None:
        raise DatasetError(
            f"image {image!r} has no camera: names start with c and a digit, as c3s2_082128 does; "
            "search without separate cameras where there are none"
        )
    return int(found.group(1))


def read_ins_annotations(folder: str | Path, name: str) -> SearchAnnotations:
    """Read `NAME_gallery.txt` and `NAME_query.txt`.

    Args:
        folder: where the two files lie.
        name: "INS_PRW" or "INS_CUHK_SYSU", or that of files in the same format.

    Returns:
        Boxes, queries and the images of the gallery file.

    Raises:
        DatasetError: a file that is missing, or a wrong line, with file and line number.
    """
    gallery_path = Path(folder) / f"{name}_gallery.txt"
    query_path = Path(folder) / f"{name}_query.txt"
    boxes = tuple(_read_boxes(gallery_path))
    known = {one.identity for one in boxes}
    queries, count = [], Counter[int]()
    for number, one in enumerate(_read_boxes(query_path), start=1):
        if one.identity not in known:
            raise DatasetError(
                f"{query_path}:{number}: ID {one.identity} has no box in {gallery_path.name}, "
                f"which holds {len(known)} IDs; do the two files belong together?"
            )
        query_name = f"{one.identity}_{count[one.identity]}"
        queries.append(AnnotatedQuery(query_name, one.identity, one.image, one.box))
        count[one.identity] += 1
    return SearchAnnotations(boxes, tuple(queries), tuple(sorted({one.image for one in boxes})))


def _read_boxes(path: Path) -> Iterator[AnnotatedBox]:
    seen: dict[AnnotatedBox, int] = {}
    for number, fields in read_lines(path, "annotation file"):
        one = _parse_box(fields, f"{path}:{number}")
        if one in seen:
            raise DatasetError(f"{path}:{number}: repeats line {seen[one]}; remove one of them")
        seen[one] = number
        yield one


def _parse_box(fields: list[str], where: str) -> AnnotatedBox:
    if len(fields) != 6:
        raise DatasetError(
            f"{where}: {len(fields)} fields, a line has 6: ID left top right bottom image"
        )
    identity, x0, y0, x1, y1 = read_integers(fields[:5], "ID and corners", where)
    if identity < 0:
        raise DatasetError(f"{where}: the ID is {identity}, IDs start at 0")
    if x1 <= x0 or y1 <= y0:
        raise DatasetError(
            f"{where}: box {x0} {y0} {x1} {y1} is inverted or empty; the corners are left top "
            "right bottom, not width and height"
        )
    return AnnotatedBox(identity, image_key(fields[5]), (x0, y0, x1, y1))


def _clip(one: AnnotatedBox | AnnotatedQuery, sizes: Mapping[str, tuple[int, int]]) -> Box:
    if one.image not in sizes:
        return one.box
    width, height = sizes[one.image]
    x0, y0, x1, y1 = one.box
    clipped = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise DatasetError(
            f"ID {one.identity}: box {one.box} lies outside {one.image} of {width}x{height} "
            "pixels; is this the right image?"
        )
    return clipped
