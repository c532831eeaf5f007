"""What a format is to the fuzzer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .codecs import Change


@dataclass(frozen=True)
class Format:
    """A format that a user can hand us.

    Attributes:
        name: on the command line.
        prepare: writes a small valid input into an empty folder.
        files: those in it that are changed, each with the change of its structure; None where only
            its bytes are changed.
        load: reads the folder as the project does, whole, and uses what it has read.
        record: a pattern that errors match which do not speak of the file as a whole; None where
            there are no records.
        structural: how often the structure is changed rather than the bytes.
    """

    name: str
    prepare: Callable[[Path], object]
    files: Mapping[str, Change | None]
    load: Callable[[Path], object]
    record: str | None = None
    structural: float = 0.6
