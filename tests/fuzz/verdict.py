"""What counts as an answer to a bad input.

An input is *accepted* where the loader returns. It is *refused* where the loader raises an error of
ours: a class of `spil_d2` or one of a few plain ones, raised by a line of `spil_d2`, in words that
can be printed and that name the file or its folder. All else is a failure.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import spil_d2

_PACKAGE = str(Path(spil_d2.__file__).parent)
_PLAIN = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
_MAX_LENGTH = 3000
_WHOLE_FILE = re.compile(
    r"whole file|top level|holds \[|cannot be read|is no |is not |must hold|lacks|missing|cut off"
    "|holds? no"
)


class Hang(BaseException):
    """Raised by the watchdog in the middle of whatever takes so long."""


def complaint(error: BaseException, folder: Path, record: str | None) -> str:
    """Why an error is none of ours; "" where it is.

    Args:
        error: as the loader raised it.
        folder: of the input.
        record: a pattern that the message must match, unless it speaks of the file as a whole.
    """
    if isinstance(error, Hang):
        return "hang"
    kind = type(error)
    is_own = kind.__module__.startswith("spil_d2.") or kind.__module__.startswith("typer")
    if kind not in _PLAIN and not is_own:
        return f"{kind.__module__}.{kind.__qualname__} of a library"
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1].filename
    if not last.startswith(_PACKAGE) and not isinstance(error, FileNotFoundError):
        return f"{kind.__qualname__} raised in {Path(last).name}:{frames[-1].lineno}"
    text = str(error)
    if str(folder) not in text:
        return f"{kind.__qualname__} does not name the file"
    if len(text) > _MAX_LENGTH:
        return f"{kind.__qualname__} is told in {len(text)} characters"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{kind.__qualname__} cannot be printed"
    if record is not None and not re.search(record, text) and not _WHOLE_FILE.search(text):
        return f"{kind.__qualname__} does not name the record"
    return ""
