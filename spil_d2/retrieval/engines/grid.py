"""The cheap baseline: the whole picture and sliding windows of a few scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable

from .base import SEARCH_ENGINE_REGISTRY
from .pooled import PooledSearchEngine

_SCALES = ((2 / 3, 3), (1 / 2, 3))


@SEARCH_ENGINE_REGISTRY.register()
class Grid(PooledSearchEngine):
    """The whole picture and square numbers of windows; 19 regions by default."""

    @configurable
    def __init__(self, *, scales: Sequence[tuple[float, int]] = _SCALES, **common: Any) -> None:
        """Set up the engine.

        Args:
            scales: side of the windows as a fraction of the picture's, and windows per axis.
            common: see `PooledSearchEngine`.
        """
        super().__init__(**common)
        self.fractions = grid_boxes(scales)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(cfg), "scales": cfg.SEARCH.GRID.SCALES}

    def propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `PooledSearchEngine.propose`; saliency is the part of the picture a window has."""
        boxes = self.fractions * np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        return boxes, (self.fractions[:, 2:] - self.fractions[:, :2]).prod(axis=1)


def grid_boxes(scales: Sequence[tuple[float, int]] = _SCALES) -> np.ndarray:
    """(R, 4) float32 XYXY in fractions of the picture's sides, the whole picture first.

    Args:
        scales: side of the windows, in (0, 1), and windows per axis, at least 1.
    """
    boxes = [(0.0, 0.0, 1.0, 1.0)]
    for side, count in scales:
        if not 0 < side < 1 or count < 1:
            raise ValueError(
                f"SEARCH.GRID.SCALES has ({side}, {count}): give sides in (0, 1) and counts >= 1"
            )
        starts = np.linspace(0, 1 - side, int(count))
        boxes += [(x, y, x + side, y + side) for y in starts for x in starts]
    return np.array(boxes, np.float32)
