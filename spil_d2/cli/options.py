"""What several commands parse alike, and how they fail."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.pictures import UnreadablePictureError
from ..structures import Box
from ..utils.reading import UnreadableFileError, is_printable, read_json, shown

if TYPE_CHECKING:
    from ..engine.searcher import QueryImage, Searcher

IndexArgument = Annotated[
    Path, typer.Argument(metavar="INDEX", help="Directory that `spil-d2 index` has made.")
]
QueryOption = Annotated[
    list[Path] | None,
    typer.Option("--query", help="A picture that shows the instance; may be given several times."),
]
BoxOption = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="x0,y0,x1,y1",
        help="Box around the instance, in pixels of the picture as displayed, one for each "
        "--query in their order; several for a single --query. Without any: whole pictures.",
    ),
]
CacheOption = Annotated[
    float,
    typer.Option(
        "--cache-gb",
        metavar="GB",
        help="Keep at most this much in INDEX/features, so that pictures that were refined once "
        "are refined faster for other queries. 0: nothing.",
        min=0.0,
    ),
]
# What the engine raises when the job, not the command, is at fault.
_FAILURES = (OSError, ValueError, RuntimeError, ImportError, MemoryError)


@contextlib.contextmanager
def reported_failures() -> Iterator[None]:
    """Say in one line what went wrong, and end with exit code 1."""
    try:
        yield
    except _FAILURES as error:
        typer.secho(f"Error: {error or type(error).__name__}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


def parse_box(text: str) -> Box:
    """A box from x0,y0,x1,y1.

    Raises:
        typer.BadParameter: it is not four numbers.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not x0,y0,x1,y1: four numbers with commas and no spaces between",
            param_hint="--box",
        ) from None
    return x0, y0, x1, y1


def pair_boxes(paths: Sequence[Path] | None, boxes: Sequence[str] | None) -> list[tuple]:
    """(path, boxes) of each picture of a command line.

    Raises:
        typer.BadParameter: there is no picture, or the numbers of both do not fit.
    """
    if not paths:
        raise typer.BadParameter("a picture of the instance is needed", param_hint="--query")
    parsed = [parse_box(one) for one in boxes or ()]
    if not parsed:
        return [(path, []) for path in paths]
    if len(paths) == 1:
        return [(paths[0], parsed)]
    if len(paths) != len(parsed):
        raise typer.BadParameter(
            f"{len(parsed)} boxes for {len(paths)} pictures: give one --box for each --query, in "
            "the same order (name a picture twice for two boxes on it)",
            param_hint="--box",
        )
    return [(path, [box]) for path, box in zip(paths, parsed)]


def read_references(searcher: Searcher, pairs: Sequence[tuple]) -> list[QueryImage]:
    """Query pictures of (path, boxes).

    Raises:
        typer.BadParameter: a box does not fit its picture.
        UnreadablePictureError: a picture cannot be read.
    """
    references = []
    for path, boxes in pairs:
        try:
            references.append(searcher.query_image(path, boxes))
        except UnreadablePictureError:
            raise
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--box") from error
    return references


def read_query_file(path: Path) -> list[list[tuple]]:
    """(path, boxes) of each reference of each query of a JSON file.

    The file holds a list; an entry is {"image": path, "box": [x0, y0, x1, y1]}, or a list of such
    for one instance on several pictures. Paths are relative to the file.

    Raises:
        typer.BadParameter: naming the entry that is something else.
    """
    try:
        content = read_json(path)
    except (FileNotFoundError, UnreadableFileError) as error:
        raise typer.BadParameter(str(error), param_hint="--queries") from error
    if not isinstance(content, list) or not content:
        raise typer.BadParameter(f"{path} must hold a list of queries", param_hint="--queries")
    return [
        [_reference(path, place, one) for one in (entry if isinstance(entry, list) else [entry])]
        for place, entry in enumerate(content)
    ]


def _reference(path: Path, place: int, entry: Any) -> tuple:
    try:
        x0, y0, x1, y1 = (float(value) for value in entry["box"])
        name = entry["image"]
        if not all(map(math.isfinite, (x0, y0, x1, y1))) or not isinstance(name, str):
            raise ValueError("the box is not finite, or the image no path")
        if not is_printable(name):
            raise ValueError("the image is no path")
        return path.parent / name, [(x0, y0, x1, y1)]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f'{path}, entry {place}: needed is {{"image": path, "box": [x0, y0, x1, y1]}}, or a '
            f"list of such; found {shown(entry)}",
            param_hint="--queries",
        ) from error
