"""Small localizers and the pictures, queries and labels that tests give them."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from spil_d2 import get_cfg
from spil_d2.engine.presets import resolve_config

CONFIGS = Path(__file__).parents[2] / "configs"
QUERY_BOX = (8.0, 8.0, 56.0, 56.0)

# CST's localizer: GlobalTrack's heads.
GLOBALTRACK = ("Base-CST-tiny.yaml", "MODEL.EFFICIENTNET.VARIANT", "lite0", "MODEL.BF16", "off")
# The official network with few channels; without ImageNet weights frozen normalization diverges.
GLOBALTRACK_R50 = (
    *("Base-CST.yaml", "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.RESNETS.NORM", "GN"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 30, "MODEL.RPN.POST_NMS_TOPK_TEST", 30),
)
# One-shot FSOD: Attention-RPN and the multi-relation detector.
FSOD = (
    *("SPIL/fsod_tiny_instre_dev.yaml", "MODEL.EFFICIENTNET.VARIANT", "lite0"),
    *("MODEL.BF16", "off", "MODEL.FSOD.CHANNELS", 32, "MODEL.RPN.CONV_DIMS", [32]),
)
# C4 with few channels.
FSOD_C4 = (
    *("Base-SPIL-paper.yaml", "MODEL.MASK_ON", False, "MODEL.RESNETS.NORM", "GN"),
    *("MODEL.CORRELATION_HEAD.NAME", "AttentionRPN"),
    *("MODEL.ROI_HEADS.NAME", "MultiRelationROIHeads", "MODEL.FSOD.RES5", True),
    *("MODEL.QUERY.POOLER_RESOLUTION", 14, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
)


def config_of(preset: str, *changes: object) -> CfgNode:
    """A preset on the CPU, without weights, and KEY, VALUE, ... on top."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / preset))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *changes])
    resolve_config(cfg)
    return cfg


def spread_scores(model: nn.Module) -> nn.Module:
    """Scores that differ by more than rounding, so that no order hangs on it."""
    generator = torch.Generator().manual_seed(1)
    predictor = model.roi_heads.box_predictor.cls_score
    for layer in (model.proposal_generator.rpn_head.objectness_logits, predictor):
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.data = weight / weight.flatten(1).norm(dim=1).mean()
    return model


def random_pixels(seed: int, *shape: int) -> torch.Tensor:
    """Values 0 to 254 in any shape."""
    return torch.randint(0, 255, shape, generator=torch.Generator().manual_seed(seed))


def training_item(seed: int, masks: bool = False, negative: bool = False) -> dict:
    """A picture of 96 x 128 pixels with a weighted box, its query, and perhaps a foreign query."""
    instances = Instances((96, 128))
    instances.gt_boxes = Boxes(torch.tensor([[30.0, 20.0, 90.0, 80.0]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    instances.gt_weights = torch.tensor([0.8])
    if masks:
        mask = torch.zeros(1, 96, 128, dtype=torch.bool)
        mask[:, 25:75, 35:85] = True
        instances.gt_masks = BitMasks(mask)
    box = torch.tensor([QUERY_BOX] * 2)
    item = {
        "image": random_pixels(seed, 3, 96, 128),
        "height": 192,
        "width": 256,
        "instances": instances,
        "query_crops": random_pixels(seed + 100, 2, 3, 64, 64),
        "query_boxes": box,
    }
    if negative:
        crops = random_pixels(seed + 200, 2, 3, 64, 64)
        item.update(negative_crops=crops, negative_boxes=box)
    return item


def training_losses(model: nn.Module, items: list[dict]) -> dict[str, torch.Tensor]:
    """Losses of a batch in training."""
    model.train()
    with EventStorage():
        return model(items)


def assert_all_learns(model: nn.Module, losses: dict[str, torch.Tensor]) -> None:
    """The losses are finite, and their gradients reach every parameter that is trained."""
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient for {without[:5]}"


def encoded(model: nn.Module, num_queries: int) -> tuple[dict, torch.Tensor, list]:
    """Maps of a picture, kernels of random queries, and the picture's size."""
    images = model.preprocess([random_pixels(0, 3, 96, 128)])
    boxes = torch.tensor([QUERY_BOX] * num_queries)
    kernels = model.encode_query(random_pixels(1, num_queries, 3, 64, 64), boxes)
    return model.encode_gallery(images), kernels, images.image_sizes


def assert_same(first: Instances, second: Instances) -> None:
    """Equal boxes and scores, but for rounding."""
    torch.testing.assert_close(
        first.pred_boxes.tensor, second.pred_boxes.tensor, atol=1e-2, rtol=1e-4
    )
    torch.testing.assert_close(first.scores, second.scores, atol=1e-4, rtol=1e-4)
