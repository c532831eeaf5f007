"""Boxes that do not look at the picture: the whole of it, a grid, sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..engines.grid import grid_boxes
from .base import PROPOSAL_REGISTRY, ProposalSource, common_arguments

_GRID_SCALES = ((2 / 3, 3), (1 / 2, 3))
_WINDOW_SIZES = (70, 140, 210, 280, 350, 420)
_WINDOW_RATIOS = (0.5, 1.0, 2.0)


class WholeImage(ProposalSource):
    """One box: the picture. Its score is 1."""

    def __init__(self) -> None:
        super().__init__(max_boxes=1, min_side=1.0)

    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32), np.ones(1)


class Grid(ProposalSource):
    """Windows of a few scales relative to the picture; the score is the part of it they have."""

    def __init__(
        self, *, scales: Sequence[tuple[float, int]] = _GRID_SCALES, **common: Any
    ) -> None:
        """Set up the source.

        Args:
            scales: side of the windows as a fraction of the picture's, and windows per axis.
            common: see `ProposalSource`.
        """
        super().__init__(**common)
        self._fractions = grid_boxes(scales)[1:]

    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes = self._fractions * np.array([image.shape[1], image.shape[0]] * 2, np.float32)
        return boxes, (self._fractions[:, 2:] - self._fractions[:, :2]).prod(axis=1)


class SlidingWindow(ProposalSource):
    """Windows of fixed sizes in pixels (spec 6), moved by a part of their own side.

    Those at the right and the lower border are moved back into the picture, windows larger than
    the picture are left out. The score is the part of the picture that a window has: the method
    itself knows no better or worse.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[float] = _WINDOW_SIZES,
        ratios: Sequence[float] = _WINDOW_RATIOS,
        stride: float = 1.0,
        **common: Any,
    ) -> None:
        """Set up the source.

        Args:
            sizes: square root of the windows' areas, in pixels.
            ratios: height / width.
            stride: as a part of the window's side, in (0, 1]; 1: windows do not overlap.
            common: see `ProposalSource`.
        """
        super().__init__(**common)
        if not 0 < stride <= 1:
            raise ValueError(f"CST.PROPOSALS.SLIDING_WINDOW.STRIDE is in (0, 1], got {stride}")
        if min(sizes) <= 0 or min(ratios) <= 0:
            raise ValueError(f"sizes and ratios of windows are > 0, got {sizes} and {ratios}")
        self._shapes = [
            (size / ratio**0.5, size * ratio**0.5) for size in sizes for ratio in ratios
        ]
        self._stride = stride

    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = image.shape[:2]
        boxes = [
            (x, y, x + w, y + h)
            for w, h in self._shapes
            if w <= width and h <= height
            for y in _starts(height, h, self._stride)
            for x in _starts(width, w, self._stride)
        ]
        array = np.array(boxes, np.float64).reshape(-1, 4)
        return array, (array[:, 2:] - array[:, :2]).prod(axis=1) / (width * height)


def _starts(length: int, side: float, stride: float) -> np.ndarray:
    """Where windows begin on an axis; the last one ends at its end."""
    starts = np.arange(0, length - side, side * stride)
    return np.append(starts, length - side)


@PROPOSAL_REGISTRY.register()
def whole_image(cfg: CfgNode) -> WholeImage:
    """The picture itself."""
    return WholeImage()


@PROPOSAL_REGISTRY.register()
def grid(cfg: CfgNode) -> Grid:
    """The windows of `SEARCH.GRID`."""
    return Grid(scales=cfg.SEARCH.GRID.SCALES, **common_arguments(cfg))


@PROPOSAL_REGISTRY.register()
def sliding_window(cfg: CfgNode) -> SlidingWindow:
    """Windows by `CST.PROPOSALS.SLIDING_WINDOW`."""
    settings = cfg.CST.PROPOSALS.SLIDING_WINDOW
    return SlidingWindow(
        sizes=settings.SIZES,
        ratios=settings.RATIOS,
        stride=settings.STRIDE,
        **common_arguments(cfg),
    )
