"""A Detectron2 detector's boxes with pooled features: the counterpart of FCIS+XD."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, configurable
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor, nn

from ...backbones import build_frozen_backbone, load_all_weights, resolve_weights
from ..pooling import normalize, pool_masks
from .base import SEARCH_ENGINE_REGISTRY, Regions
from .building import read_common_config
from .pooled import PooledSearchEngine, whole_image_box

logger = logging.getLogger(__name__)


@SEARCH_ENGINE_REGISTRY.register()
class Detector(PooledSearchEngine):
    """The detections of a picture, and the whole of it, pooled from a frozen map.

    A query is pooled over its box; where masks are pooled, that box holds background which the
    regions lack.
    """

    @configurable
    def __init__(
        self,
        *,
        detector: nn.Module,
        detector_format: str = "BGR",
        min_size: int = 800,
        max_size: int = 1333,
        score_threshold: float = 0.05,
        max_regions: int = 20,
        masks: bool = False,
        **common: Any,
    ) -> None:
        """Set up the engine.

        Args:
            detector: a Detectron2 model, which takes {"image", "height", "width"} and returns
                {"instances"} with `pred_boxes`, `scores` and, for `masks`, `pred_masks`.
            detector_format: "RGB" or "BGR", its order of channels.
            min_size, max_size: sides that pictures are resized to for the detector.
            score_threshold: detections below it are left out.
            max_regions: best detections kept.
            masks: average over the masks instead of the boxes ("mean" and "gem" pooling only).
            common: see `PooledSearchEngine`.
        """
        super().__init__(**common)
        if masks and {pooling for _, pooling, _ in self.descriptors} - {"mean", "gem"}:
            raise ValueError("SEARCH.DETECTOR.MASKS needs 'mean' or 'gem' in SEARCH.POOLINGS")
        self.detector = detector.eval().requires_grad_(False)
        self.detector_format = detector_format
        self.resize = ResizeShortestEdge(min_size, max_size)
        self.score_threshold, self.max_regions = score_threshold, max_regions
        self.masks = masks

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings, common = cfg.SEARCH.DETECTOR, read_common_config(cfg)
        theirs = read_detector_config(settings.CONFIG_FILE, cfg.MODEL.DEVICE)
        detector = build_model(theirs)
        weights = settings.WEIGHTS or theirs.MODEL.WEIGHTS
        load_detector(detector, weights)
        if settings.OWN_FEATURES:
            source = {
                "backbone": detector.backbone,
                "pixel_mean": theirs.MODEL.PIXEL_MEAN,
                "pixel_std": theirs.MODEL.PIXEL_STD,
                "input_format": theirs.INPUT.FORMAT,
            }
        else:
            source = {"backbone": build_frozen_backbone(cfg, common["descriptor_layers"])}
        return {
            **common,
            **source,
            "detector": detector,
            "detector_format": theirs.INPUT.FORMAT,
            "min_size": theirs.INPUT.MIN_SIZE_TEST,
            "max_size": theirs.INPUT.MAX_SIZE_TEST,
            "score_threshold": settings.SCORE_THRESHOLD,
            "max_regions": settings.MAX_REGIONS,
            "masks": settings.MASKS,
        }

    def propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `PooledSearchEngine.propose`; saliency is the score, 0 for the whole picture."""
        return _with_whole_image(self._detect(image), image)

    def _describe(self, image: np.ndarray, features: Mapping[str, Tensor], item: int) -> Regions:
        if not self.masks:
            return super()._describe(image, features, item)
        detections = self._detect(image)
        if not detections.has("pred_masks"):
            raise ValueError("SEARCH.DETECTOR.MASKS is set, but this detector finds no masks")
        boxes, saliency = _with_whole_image(detections, image)
        whole = detections.pred_masks.new_ones((1, *image.shape[:2]))
        masks = torch.cat([detections.pred_masks, whole]).to(self._device)
        parts = [
            weight**0.5 * normalize(pool_masks(features[name][item], masks, pooling))
            for name, pooling, weight in self.descriptors
        ]
        return Regions(boxes, saliency, self._finish(torch.cat(parts, dim=1)))

    @torch.no_grad()
    def _detect(self, image: np.ndarray) -> Instances:
        pixels = image if self.detector_format == "RGB" else image[:, :, ::-1]
        resized = self.resize.get_transform(pixels).apply_image(np.ascontiguousarray(pixels))
        tensor = torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1))
        height, width = image.shape[:2]
        found = self.detector([{"image": tensor, "height": height, "width": width}])
        instances = found[0]["instances"]
        kept = (instances.scores >= self.score_threshold) & instances.pred_boxes.nonempty()
        instances = instances[kept]
        return instances[instances.scores.argsort(descending=True)[: self.max_regions]]


def _with_whole_image(detections: Instances, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes = detections.pred_boxes.tensor.float().cpu().numpy()
    scores = detections.scores.float().cpu().numpy()
    return np.concatenate([boxes, whole_image_box(image)]), np.append(scores, np.float32(0))


def read_detector_config(path: str, device: str) -> CfgNode:
    """Detectron2's configuration in a file, or in the model zoo by its name there.

    Args:
        path: of SEARCH.DETECTOR.CONFIG_FILE.
        device: that the detector will run on.

    Raises:
        ValueError: the path is empty.
        FileNotFoundError: there is no such file, here or in the model zoo.
    """
    if not path:
        raise ValueError(
            "SEARCH.DETECTOR.CONFIG_FILE is not set: give the path of a Detectron2 configuration, "
            "or its name in the model zoo, as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
        )
    config = get_detectron2_cfg()
    file = path
    if not Path(path).is_file():
        try:
            file = model_zoo.get_config_file(path)
            config.MODEL.WEIGHTS = model_zoo.get_checkpoint_url(path)
        except RuntimeError as error:
            raise FileNotFoundError(
                f"SEARCH.DETECTOR.CONFIG_FILE {path!r} is neither a file nor in Detectron2's "
                "model zoo"
            ) from error
    zoo_weights = config.MODEL.WEIGHTS
    config.merge_from_file(file, allow_unsafe=False)
    if file != path:
        config.MODEL.WEIGHTS = zoo_weights
    config.MODEL.DEVICE = device
    return config


def load_detector(detector: nn.Module, weights: str) -> None:
    """Load a detector's weights in place.

    Args:
        detector: of `read_detector_config`.
        weights: path or address; all of the detector's weights must be there.

    Raises:
        ValueError: there is no path, or the file lacks weights.
        FileNotFoundError: the file could not be had.
    """
    if not weights:
        raise ValueError("SEARCH.DETECTOR.WEIGHTS is not set: a detector of random weights is none")
    path = resolve_weights(weights)
    try:
        load_all_weights(detector, path)
    except OSError as error:
        raise FileNotFoundError(
            f"the detector's weights {path} could not be had ({error}): copy the file here and "
            "set SEARCH.DETECTOR.WEIGHTS to its path"
        ) from error
