"""Selective search (Uijlings et al.): the boxes of all regions of several segmentations."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode

from .base import (
    PROPOSAL_REGISTRY,
    ProposalSource,
    common_arguments,
    shrink,
    to_corners,
    ximgproc,
)

MODES = ("fast", "quality")


class SelectiveSearch(ProposalSource):
    """OpenCV's selective search, put into an order that is the same at every call.

    OpenCV multiplies a region's level in its hierarchy by C's `rand()`, so that the order of its
    boxes, not their set, changes from call to call, and puts small regions first. Here as in the
    publication coarse regions are likely to come first: a box's place by size is multiplied by a
    random number of a fixed seed. The scores are 1, 1/2, 1/3, ...
    """

    def __init__(
        self, *, longer_side: int = 320, mode: str = "fast", seed: int = 0, **common: Any
    ) -> None:
        """Set up the source.

        Args:
            longer_side: that a picture is shrunk to first, in pixels; 0: as it is.
            mode: one of `MODES`; "quality" finds more boxes and takes several times as long.
            seed: of the order.
            common: see `ProposalSource`.
        """
        super().__init__(**common)
        if mode not in MODES:
            raise ValueError(f"CST.PROPOSALS.SELECTIVE_SEARCH.MODE is {mode!r}: use one of {MODES}")
        self._longer_side, self._mode, self._seed = longer_side, mode, seed

    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        small, scale = shrink(image, self._longer_side)
        search = ximgproc().segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(small[:, :, ::-1]))
        if self._mode == "fast":
            search.switchToSelectiveSearchFast()
        else:
            search.switchToSelectiveSearchQuality()
        boxes = coarse_first(to_corners(search.process()), self._seed)
        return boxes * scale, 1 / np.arange(1, len(boxes) + 1, dtype=np.float32)


def coarse_first(boxes: np.ndarray, seed: int) -> np.ndarray:
    """Boxes in a random order that prefers large ones and ignores the given order.

    Args:
        boxes: (N, 4) XYXY, all different.
        seed: of the order.

    Returns:
        (N, 4): those boxes by their place from the largest on times a uniform random number.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    # lexsort's last key is its first: by area, then by coordinates.
    by_size = boxes[np.lexsort((*boxes.T[::-1], -area))]
    places = np.arange(1, len(boxes) + 1)
    return by_size[np.argsort(places * np.random.default_rng(seed).random(len(boxes)))]


@PROPOSAL_REGISTRY.register()
def selective_search(cfg: CfgNode) -> SelectiveSearch:
    """Selective search by `CST.PROPOSALS.SELECTIVE_SEARCH`."""
    settings = cfg.CST.PROPOSALS.SELECTIVE_SEARCH
    return SelectiveSearch(
        longer_side=settings.LONGER_SIDE, mode=settings.MODE, **common_arguments(cfg)
    )
