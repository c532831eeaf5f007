"""Arrays as MATLAB has them, for `savemat`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cells(items: Sequence) -> np.ndarray:
    """A cell array, a column."""
    array = np.empty((len(items), 1), object)
    array.ravel()[:] = items
    return array


def structs(rows: Sequence[dict]) -> np.ndarray:
    """A struct array (1, N)."""
    array = np.zeros((1, len(rows)), [(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        for name, value in row.items():
            array[0, i][name] = value
    return array
