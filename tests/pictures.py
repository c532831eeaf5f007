"""Picture files that are hard on who decodes them."""

from __future__ import annotations

from spil_d2.utils.picture_files import count_scans


def progressive(data: bytes, scans: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again, until there are so many."""
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - count_scans(data)) + data[-2:]
