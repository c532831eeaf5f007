"""Approximate max-pooling localization: the window of a map that looks most like a MAC vector.

Shape shorthand: C channels, H x W cells, R windows (XYXY in cells, whole numbers).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ...ops.similarity import unit_rows


class ApproximateMax:
    """(mean x^alpha)^(1/alpha) of any window of a map, from one integral image."""

    def __init__(self, feature_map: np.ndarray, alpha: float = 10.0, step: int = 3) -> None:
        """
        Args:
            feature_map: (C, H, W); what is below 0 counts as 0.
            alpha: exponent; the larger, the nearer to the maximum.
            step: of the grid of `windows`, in cells.
        """
        channels, self.height, self.width = feature_map.shape
        rectified = np.maximum(feature_map, 0).astype(np.float64)
        # Each channel in [0, 1]: high powers of larger numbers would drown the others in the sums.
        scale = np.maximum(rectified.max(axis=(1, 2)), 1e-12)
        self._scale = scale.astype(np.float32)
        powers = (rectified / scale[:, None, None]) ** alpha
        sums = powers.transpose(1, 2, 0).cumsum(axis=0).cumsum(axis=1)
        self._integral = np.zeros((self.height + 1, self.width + 1, channels))
        self._integral[1:, 1:] = sums
        self._alpha, self._step = alpha, step

    def pool(self, windows: np.ndarray) -> np.ndarray:
        """(R, C) of windows (R, 4) of area > 0, unit length (a zero vector stays zero)."""
        x0, y0, x1, y1 = windows.T
        table = self._integral
        sums = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        means = np.maximum(sums, 0) / ((x1 - x0) * (y1 - y0))[:, None]
        # The sums need double precision; the root does not, and is several times as fast without.
        pooled = self._scale * means.astype(np.float32) ** np.float32(1 / self._alpha)
        return unit_rows(pooled)

    @cached_property
    def windows(self) -> np.ndarray:
        """(R, 4) all windows with corners on the grid, the far borders included."""
        xs, ys = self._spans(self.width), self._spans(self.height)
        return np.array([(x0, y0, x1, y1) for y0, y1 in ys for x0, x1 in xs])

    @cached_property
    def window_vectors(self) -> np.ndarray:
        """(R, C) of `windows`: the same for all queries of a picture."""
        return self.pool(self.windows)

    def _spans(self, length: int) -> list[tuple[int, int]]:
        stops = sorted({*range(0, length, self._step), length})
        return [(low, high) for low in stops for high in stops if low < high]


def find_window(
    pooled: ApproximateMax,
    query: np.ndarray,
    aspect_ratio: float,
    *,
    max_aspect_change: float = 1.1,
    reach: int = 3,
    rounds: int = 5,
) -> np.ndarray:
    """The window whose approximate maximum has the largest cosine with a query's MAC vector.

    The best window of the grid with about the query's aspect ratio (with the nearest one, where
    none has), then coordinate descent: each side in turn moves to its best place in reach.

    Args:
        pooled: of the map that is searched.
        query: (C,) MAC vector.
        aspect_ratio: width / height of the query, in cells.
        max_aspect_change: factor allowed between the two aspect ratios.
        reach: cells that a side moves by at most, to either side.
        rounds: over the four sides, at most.

    Returns:
        (4,) XYXY in cells.
    """
    windows = pooled.windows
    sides = windows[:, 2:] - windows[:, :2]
    change = np.abs(np.log(sides[:, 0] / sides[:, 1] / aspect_ratio))
    allowed = np.flatnonzero(change <= max(np.log(max_aspect_change), change.min()) + 1e-9)
    best = windows[allowed[np.argmax(pooled.window_vectors[allowed] @ query)]]
    for _ in range(rounds):
        before = best
        for side in range(4):
            moved = _moved(best, side, reach, (pooled.width, pooled.height))
            best = moved[np.argmax(pooled.pool(moved) @ query)]
        if np.array_equal(best, before):
            break
    return best


def _moved(window: np.ndarray, side: int, reach: int, size: tuple[int, int]) -> np.ndarray:
    """(R, 4) the window itself, first, and with one side elsewhere, none of them empty."""
    axis = side % 2
    low, high = (0, window[axis + 2] - 1) if side < 2 else (window[axis] + 1, size[axis])
    steps = sorted(range(-reach, reach + 1), key=abs)
    places = [window[side] + step for step in steps if low <= window[side] + step <= high]
    moved = np.repeat(window[None], len(places), axis=0)
    moved[:, side] = places
    return moved
