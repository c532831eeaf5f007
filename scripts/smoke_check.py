"""A few seconds of the installed packages together: one training step of a small Mask R-CNN."""

from __future__ import annotations

import logging
import sys
import warnings

warnings.filterwarnings("ignore")
# torch 2.12 logs advice for its own developers at the first backward pass.
logging.getLogger("torch.fx").setLevel(logging.ERROR)

import cv2  # noqa: E402
import detectron2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.structures import BitMasks, Boxes, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402

import spil_d2  # noqa: E402


def main() -> None:
    """Train a small Mask R-CNN for one step."""
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = True
    # Without pretrained weights the frozen statistics of the default let the activations explode.
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 8
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 20
    cfg.INPUT.MASK_FORMAT = "bitmask"
    model = build_model(cfg)
    with EventStorage():
        losses = model([picture_with_a_box()])
    total = sum(losses.values())
    total.backward()
    if not bool(torch.isfinite(total)):
        raise SystemExit(f"smoke check: the loss is not finite: {losses}")
    versions = [f"Python {sys.version.split()[0]}", f"torch {torch.__version__}"]
    versions += [f"torchvision {torchvision.__version__}", f"numpy {np.__version__}"]
    versions += [f"OpenCV {cv2.__version__}", f"detectron2 {detectron2.__version__}"]
    versions += [f"spil_d2 {spil_d2.__version__}", f"on {cfg.MODEL.DEVICE}"]
    print("smoke check passed:", ", ".join(versions))


def picture_with_a_box() -> dict:
    """An item as Detectron2's mappers yield it."""
    masks = torch.zeros(1, 96, 128, dtype=torch.bool)
    masks[:, 20:70, 30:90] = True
    instances = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[30.0, 20, 90, 70]])))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    instances.gt_masks = BitMasks(masks)
    image = (masks * 200).to(torch.uint8).expand(3, -1, -1)
    return {"image": image, "height": 96, "width": 128, "instances": instances}


if __name__ == "__main__":
    main()
