"""Text files of datasets: lines of fields, integers and numbers, with errors that name the line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...utils.reading import UnreadableFileError, read_text
from .fields import MAX_ID, DatasetError, is_number


def read_lines(path: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a text file as (line number from 1, fields); an empty line has no fields.

    Args:
        path: the file.
        what: what the file is, for the error.

    Raises:
        DatasetError: the file is missing or no text.
    """
    try:
        text = read_text(path)
    except UnreadableFileError as error:
        raise DatasetError(f"{path}: the {what} {error.reason}") from error
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: the {what} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        yield number, line.split()


def read_integers(fields: Sequence[str], what: str, where: str) -> list[int]:
    """The integers of one line of a text file.

    Args:
        fields: of the line.
        what: they are, in words, for the error.
        where: file and line, for the error.

    Raises:
        DatasetError: there is something else among them, or a number beyond `MAX_ID`.
    """
    try:
        numbers = [int(field) for field in fields]
    except ValueError as error:
        raise DatasetError(
            f"{where}: {what} must be integers, found {' '.join(fields)[:90]!r}"
        ) from error
    if any(abs(one) > MAX_ID for one in numbers):
        seen = " ".join(fields)[:90]
        raise DatasetError(f"{where}: {what} must be at most {MAX_ID}, found {seen!r}")
    return numbers


def read_numbers(fields: Sequence[str], names: str, where: str) -> list[float]:
    """The numbers of one line of a text file.

    Args:
        fields: of the line.
        names: what they are, e.g. "x y w h"; one word each.
        where: file and line, for the error.

    Raises:
        DatasetError: another count, or no numbers that a picture can have.
    """
    if len(fields) != len(names.split()):
        raise DatasetError(f"{where}: {len(fields)} fields, expected: {names}")
    try:
        numbers = [float(one) for one in fields]
    except ValueError as error:
        raise DatasetError(f"{where}: not a number: {error!s:.90}; expected: {names}") from error
    if not all(map(is_number, numbers)):
        raise DatasetError(f"{where}: {numbers} are not finite numbers; expected: {names}")
    return numbers
