"""A few-shot detector as a Detectron2 model directory: config.yaml and model_final.pth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from ...modeling import ClassRCNN
from ...utils.artifacts import publish_directory
from ..checkpoint import save_weights
from ..index_config import save_config

CONFIG, WEIGHTS = "config.yaml", "model_final.pth"


def export_detector(
    cfg, detector: ClassRCNN, names: Sequence[str], directory: Path, facts: dict | None = None
) -> Path:
    """Publish a detector that `DefaultPredictor` and demo/demo.py run.

    `get_cfg()` of spil_d2 reads its config.yaml; MODEL.CLASS_DETECTOR.CLASSES names `pred_classes`
    0 .. N - 1. MODEL.WEIGHTS is absolute: name model_final.pth anew where the directory has moved
    (demo/demo.py takes the file beside the configuration).

    Args:
        cfg: that the detector's localizer was built with.
        detector: whose classes are in the order of `names`.
        names: of its classes.
        directory: to publish; a complete one that is there is kept.
        facts: for the manifest.

    Raises:
        ValueError: the names do not fit the classes.
    """
    if len(names) != len(detector.kernels):
        raise ValueError(f"{len(names)} names for {len(detector.kernels)} classes: {list(names)}")
    cfg = detector_config(cfg, detector, names, directory)

    def write(path: Path) -> None:
        save_config(cfg, path / CONFIG)
        save_weights(detector, path / WEIGHTS)

    return publish_directory(directory, write, {"classes": list(names), **(facts or {})})


def detector_config(cfg, detector: ClassRCNN, names: Sequence[str], directory: Path) -> CfgNode:
    """The configuration of an exported detector."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "ClassRCNN"
    cfg.MODEL.WEIGHTS = str((directory / WEIGHTS).absolute())
    # The file has all weights; what suits the machine is found out where it runs.
    cfg.MODEL.EFFICIENTNET.PRETRAINED = False
    cfg.MODEL.BF16 = "auto"
    node = cfg.MODEL.CLASS_DETECTOR
    node.CLASSES = list(names)
    node.KERNEL_SHAPE = list(detector.kernels.shape[1:])
    node.DESCRIPTOR_WIDTH = detector.descriptors.shape[1]
    node.GAMMA = float(detector.gamma)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.FEW_SHOT.STEP = ""
    cfg.OUTPUT_DIR = "."
    cfg.freeze()
    return cfg
