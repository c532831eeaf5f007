"""Edge boxes (Zitnick and Dollar): boxes that wholly enclose many edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
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

# Edges this strong, as a percentile of the thinned gradients that are > 0, count as certain.
_CERTAIN_PERCENTILE = 95.0


class EdgeBoxes(ProposalSource):
    """OpenCV's edge boxes; the score is the objectness.

    The published method finds edges by a structured forest, whose model file OpenCV does not ship
    (`model.yml.gz` in opencv_extra). Without it the edges are thinned colour gradients.
    """

    def __init__(
        self,
        *,
        model: str = "",
        longer_side: int = 320,
        alpha: float = 0.65,
        beta: float = 0.75,
        min_box_area: float = 1000.0,
        **common: Any,
    ) -> None:
        """Set up the source.

        Args:
            model: path of the structured forest's model; "" takes thinned gradients.
            longer_side: that a picture is shrunk to first, in pixels; 0: as it is.
            alpha: step of the sliding windows, as their IoU.
            beta: IoU of the non-maximum suppression.
            min_box_area: in pixels of the shrunk picture.
            common: see `ProposalSource`.

        Raises:
            FileNotFoundError: `model` is no file.
        """
        super().__init__(**common)
        self._longer_side = longer_side
        self._alpha, self._beta, self._min_box_area = alpha, beta, min_box_area
        self._forest = None
        if model:
            if not Path(model).is_file():
                raise FileNotFoundError(
                    f"CST.PROPOSALS.EDGE_BOXES.MODEL {model!r} is no file: give the path of the "
                    "structured forest's model.yml.gz, or '' for gradient edges"
                )
            self._forest = ximgproc().createStructuredEdgeDetection(model)

    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        small, scale = shrink(image, self._longer_side)
        edges, orientation = self._edges(small)
        method = ximgproc().createEdgeBoxes(
            alpha=self._alpha, beta=self._beta, minBoxArea=self._min_box_area
        )
        boxes, scores = method.getBoundingBoxes(edges, orientation)
        return to_corners(boxes) * scale, np.asarray(scores, np.float32).reshape(-1)

    def _edges(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._forest is None:
            return thinned_gradients(image)
        edges = self._forest.detectEdges(image.astype(np.float32) / 255)
        orientation = self._forest.computeOrientation(edges)
        return self._forest.edgesNms(edges, orientation), orientation


def thinned_gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges one pixel thin, without a model: the strongest gradient of the LAB channels.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        Strength (H, W) float32 in [0, 1], 0 where the gradient is no maximum along its own
        direction; and the direction across the edge (H, W) float32 in [0, pi).
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), 1.0)
    dx, dy = (cv2.Sobel(lab, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    strength = np.hypot(dx, dy)
    channel = strength.argmax(axis=2)[..., None]
    dx, dy, strength = (
        np.take_along_axis(values, channel, axis=2)[..., 0] for values in (dx, dy, strength)
    )
    thin = strength * _is_ridge(strength, dx, dy)
    if not thin.any():
        return thin, np.zeros_like(thin)
    certain = np.percentile(thin[thin > 0], _CERTAIN_PERCENTILE)
    # float32 rounds a direction just below pi up to pi.
    orientation = np.mod(np.arctan2(dy, dx), np.float32(np.pi))
    orientation[orientation >= np.float32(np.pi)] = 0
    return np.minimum(thin / np.float32(certain), 1), orientation


def _is_ridge(strength: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where `strength` is at least as large as one pixel further along +-(dx, dy)."""
    rows, columns = np.indices(strength.shape, dtype=np.float32)
    length = np.maximum(np.hypot(dx, dy), np.float32(1e-12))
    step_x, step_y = dx / length, dy / length
    is_ridge = strength > 0
    for sign in (1, -1):
        beside = cv2.remap(
            strength,
            columns + sign * step_x,
            rows + sign * step_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        is_ridge &= strength >= beside
    return is_ridge


@PROPOSAL_REGISTRY.register()
def edge_boxes(cfg: CfgNode) -> EdgeBoxes:
    """Edge boxes by `CST.PROPOSALS.EDGE_BOXES`."""
    settings = cfg.CST.PROPOSALS.EDGE_BOXES
    return EdgeBoxes(
        model=settings.MODEL,
        longer_side=settings.LONGER_SIDE,
        min_box_area=settings.MIN_BOX_AREA,
        **common_arguments(cfg),
    )
