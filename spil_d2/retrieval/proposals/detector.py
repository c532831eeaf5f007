"""General detection: the boxes of a Detectron2 detector, whatever their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from torch import nn

from ..engines.detector import load_detector, read_detector_config
from .base import PROPOSAL_REGISTRY, ProposalSource, common_arguments


class DetectorProposals(ProposalSource):
    """The detections of a picture; the score is the detector's."""

    def __init__(
        self,
        *,
        detector: nn.Module,
        detector_format: str = "BGR",
        min_size: int = 800,
        max_size: int = 1333,
        score_threshold: float = 0.02,
        **common: Any,
    ) -> None:
        """Set up the source.

        Args:
            detector: a Detectron2 model, which takes {"image", "height", "width"} and returns
                {"instances"} with `pred_boxes` and `scores`.
            detector_format: "RGB" or "BGR", its order of channels.
            min_size, max_size: sides that pictures are resized to for it.
            score_threshold: detections below it are left out.
            common: see `ProposalSource`.
        """
        super().__init__(**common)
        self._detector = detector.eval().requires_grad_(False)
        self._format = detector_format
        self._resize = ResizeShortestEdge(min_size, max_size)
        self._score_threshold = score_threshold

    @torch.no_grad()
    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = image if self._format == "RGB" else image[:, :, ::-1]
        pixels = np.ascontiguousarray(pixels)
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1))
        height, width = image.shape[:2]
        found = self._detector([{"image": tensor, "height": height, "width": width}])
        instances = found[0]["instances"]
        scores = instances.scores.float().cpu().numpy()
        boxes = instances.pred_boxes.tensor.float().cpu().numpy()
        kept = scores >= self._score_threshold
        return boxes[kept], scores[kept]


@PROPOSAL_REGISTRY.register()
def detector(cfg: CfgNode) -> DetectorProposals:
    """The detector of `SEARCH.DETECTOR` with the thresholds of `CST.PROPOSALS.DETECTOR`."""
    settings, source = cfg.CST.PROPOSALS.DETECTOR, cfg.SEARCH.DETECTOR
    theirs = read_detector_config(source.CONFIG_FILE, cfg.MODEL.DEVICE)
    for heads in (theirs.MODEL.ROI_HEADS, theirs.MODEL.RETINANET):
        heads.SCORE_THRESH_TEST = settings.SCORE_THRESHOLD
        heads.NMS_THRESH_TEST = settings.NMS_THRESHOLD
    theirs.TEST.DETECTIONS_PER_IMAGE = cfg.CST.PROPOSALS.MAX_BOXES
    model = build_model(theirs)
    load_detector(model, source.WEIGHTS or theirs.MODEL.WEIGHTS)
    return DetectorProposals(
        detector=model,
        detector_format=theirs.INPUT.FORMAT,
        min_size=theirs.INPUT.MIN_SIZE_TEST,
        max_size=theirs.INPUT.MAX_SIZE_TEST,
        score_threshold=settings.SCORE_THRESHOLD,
        **common_arguments(cfg),
    )
