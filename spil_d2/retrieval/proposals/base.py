"""What a source of proposals is: class-agnostic boxes of one picture, best first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import ModuleType

import cv2
import numpy as np
from detectron2.config import CfgNode
from fvcore.common.registry import Registry

from ...ops.numpy_boxes import BoxFilter, clip_boxes

PROPOSAL_REGISTRY = Registry("PROPOSAL")
PROPOSAL_REGISTRY.__doc__ = """
Sources of proposals by name. An entry is a function of the configuration that returns a
`ProposalSource`.
"""


class ProposalSource(ABC):
    """A picture in, boxes and scores out. Deterministic: equal pictures give equal boxes."""

    def __init__(self, *, max_boxes: int = 100, min_side: float = 10.0) -> None:
        """Set up what all sources share.

        Args:
            max_boxes: the best ones that are returned, at least 1.
            min_side: boxes with a shorter side, in pixels of the picture, are left out.
        """
        if max_boxes < 1:
            raise ValueError(f"a source returns at least 1 box, got max_boxes = {max_boxes}")
        self.max_boxes = max_boxes
        self._filter = BoxFilter(min_side=min_side)

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The proposals of a picture.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            Boxes (N, 4) float32, XYXY_ABS in pixels of the picture and inside it, and scores (N,)
            float32, non-increasing and comparable inside one picture; N <= max_boxes, 0 included.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        boxes, scores = self._propose(image)
        boxes = clip_boxes(boxes, width, height)
        kept = self._filter.keeps(boxes, width, height)
        boxes, scores = boxes[kept], np.asarray(scores, np.float32)[kept]
        order = np.argsort(-scores, kind="stable")[: self.max_boxes]
        return boxes[order], scores[order]

    @abstractmethod
    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4) and scores (N,) in any order; they are clipped and filtered afterwards."""


def build_proposal_source(cfg: CfgNode, name: str) -> ProposalSource:
    """The source of that name.

    Args:
        cfg: `CST.PROPOSALS` is read.
        name: of the registry, e.g. "edge_boxes".

    Raises:
        ValueError: for an unknown name.
    """
    if name not in PROPOSAL_REGISTRY:
        known = sorted(one for one, _ in PROPOSAL_REGISTRY)
        raise ValueError(f"{name!r} is no source of proposals: use one of {known}")
    return PROPOSAL_REGISTRY.get(name)(cfg)


def common_arguments(cfg: CfgNode) -> dict:
    """The arguments of `ProposalSource` out of `CST.PROPOSALS`."""
    settings = cfg.CST.PROPOSALS
    return {"max_boxes": settings.MAX_BOXES, "min_side": settings.MIN_SIDE}


def ximgproc() -> ModuleType:
    """OpenCV's module of edge boxes and selective search.

    Raises:
        ImportError: this OpenCV is the build without the contributed modules.
    """
    if not hasattr(cv2, "ximgproc"):
        raise ImportError(
            f"OpenCV {cv2.__version__} has no cv2.ximgproc, which edge boxes and selective search "
            "need: pip uninstall opencv-python-headless (or whichever opencv package is there), "
            "then pip install opencv-contrib-python-headless; or use another source of proposals"
        )
    return cv2.ximgproc


def shrink(image: np.ndarray, longer_side: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture made smaller by area averaging; never larger.

    Args:
        image: (H, W, C) uint8.
        longer_side: in pixels, of the result; 0 leaves the picture as it is.

    Returns:
        The picture, and (4,) float64: what its XYXY boxes are multiplied by to lie on `image`.
    """
    height, width = image.shape[:2]
    part = longer_side / max(height, width) if longer_side else 1.0
    if part >= 1:
        return np.ascontiguousarray(image), np.ones(4)
    size = max(1, round(width * part)), max(1, round(height * part))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small, np.array([width / size[0], height / size[1]] * 2)


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) XYWH -> (N, 4) float64 XYXY."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
