"""One training item: where to look, and what for."""

from __future__ import annotations

from dataclasses import dataclass

QUERY = -1
"""Position that stands for the query's own image; other positions are ranks from 0."""


@dataclass(frozen=True)
class Pair:
    """A draw from the sample pool.

    Attributes:
        query_id: whose instance is looked for.
        target: position of Y in the query's rank list, or QUERY.
        support: positions of the crops X_p, never that of Y.
        negative_id: the query whose crops X_n make the null-ground-truth half, or None.
        negative_support: positions of the crops X_n in that query's list.
    """

    query_id: int
    target: int
    support: tuple[int, ...]
    negative_id: int | None = None
    negative_support: tuple[int, ...] = ()
