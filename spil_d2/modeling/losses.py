"""R-CNN losses with a weight for each image's pseudo label (SPIL, Eq. 1).

Shape shorthand: B: images, R: sampled RoIs of all images, P: those of them that are positive,
G: ground-truth boxes of one image, S: side of the mask logits.
"""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.layers import ciou_loss, diou_loss
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    ROI_MASK_HEAD_REGISTRY,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
)
from detectron2.structures import Boxes, Instances, pairwise_ioa
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}

BOX_NORMALIZERS = ("all", "positive")
"""By whose samples box losses are divided: those of all maps, or of the maps that have a box. With
"all" each null-ground-truth map takes away from the boxes' share of the loss."""

_IGNORE_IOA = 0.5
"""A box is ignored if a larger part of its area lies in one ignore region (D20)."""


def checked_box_normalizer(name: str) -> str:
    """`name`, or ValueError unless it is one of `BOX_NORMALIZERS`."""
    if name not in BOX_NORMALIZERS:
        raise ValueError(f"SPIL.BOX_NORMALIZER is {name!r}: use one of {BOX_NORMALIZERS}")
    return name


def in_ignored(boxes: Boxes, ignored: Boxes) -> Tensor:
    """(N,) bool: which of N boxes lie in one of the ignore regions by more than half."""
    return (pairwise_ioa(ignored, boxes) > _IGNORE_IOA).any(dim=0)


def image_weights(
    instances: list[Instances], negative_weight: float, weighted: bool = True
) -> Tensor:
    """ω of each image: the weight of its first box, `negative_weight` where it has none.

    Args:
        instances: B images with `gt_boxes` and `gt_weights` (G,).
        negative_weight: for images of null ground truth.
        weighted: False gives 1 to every image that has a box.

    Returns:
        (B,) float32.
    """
    device = instances[0].gt_boxes.device
    values = [
        torch.as_tensor(negative_weight, device=device)
        if len(one) == 0
        else (one.gt_weights[0] if weighted else torch.ones((), device=device))
        for one in instances
    ]
    return torch.stack([value.float() for value in values])


def proposal_weights(proposals: list[Instances], negative_weight: float) -> Tensor:
    """ω of each sampled RoI.

    Detectron2 copies the `gt_*` fields of the box matched to a RoI; a background RoI is matched
    to the first box, whose weight is the image's. Images of null ground truth have no such field.

    Returns:
        (R,) float32.
    """
    return torch.cat(
        [
            one.gt_weights
            if one.has("gt_weights")
            else one.proposal_boxes.tensor.new_full((len(one),), negative_weight)
            for one in proposals
        ]
    )


def box_losses(
    transform: Box2BoxTransform,
    anchors: Tensor,
    deltas: Tensor,
    gt_boxes: Tensor,
    kind: str,
    beta: float = 0.0,
) -> Tensor:
    """Regression loss of each box, unreduced.

    Args:
        transform: between boxes and deltas.
        anchors, deltas, gt_boxes: (P, 4) start boxes, predicted deltas and target boxes.
        kind: "smooth_l1" (on deltas), "giou", "diou" or "ciou" (on boxes).
        beta: smooth-L1's transition point.

    Returns:
        (P,) float32.
    """
    if kind == "smooth_l1":
        return smooth_l1_loss(deltas, transform.get_deltas(anchors, gt_boxes), beta).sum(dim=1)
    if kind not in IOU_LOSSES:
        raise ValueError(f"box loss {kind!r} is neither smooth_l1 nor one of {list(IOU_LOSSES)}")
    return IOU_LOSSES[kind](transform.apply_deltas(deltas, anchors), gt_boxes)


class WeightedFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Box predictor with two classes, class-agnostic boxes, and ω-weighted losses."""

    @configurable
    def __init__(
        self,
        input_shape,
        *,
        negative_weight: float = 1.0,
        box_normalizer: str = "all",
        **kwargs,
    ):
        """
        Args:
            negative_weight: weight of the RoIs of images of null ground truth.
            box_normalizer: one of `BOX_NORMALIZERS`.
        """
        super().__init__(input_shape, **kwargs)
        self.negative_weight = negative_weight
        self.box_normalizer = checked_box_normalizer(box_normalizer)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            **super().from_config(cfg, input_shape),
            "negative_weight": cfg.SPIL.NEGATIVE_WEIGHT,
            "box_normalizer": cfg.SPIL.BOX_NORMALIZER,
        }

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """
        Args:
            predictions: logits (R, 2) and deltas (R, 4).
            proposals: B images with `proposal_boxes`, `gt_classes` and, where they have ground
                truth, `gt_boxes` and `gt_weights`.
        """
        logits, deltas = predictions
        gt_classes = torch.cat([one.gt_classes for one in proposals])
        weights = proposal_weights(proposals, self.negative_weight)
        num_rois = max(len(gt_classes), 1)
        classification = F.cross_entropy(logits, gt_classes, reduction="none")
        positive = gt_classes < self.num_classes
        boxes, targets = _boxes_and_targets(proposals)
        regression = box_losses(
            self.box2box_transform,
            boxes[positive],
            deltas[positive],
            targets[positive],
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        num_box_rois = num_rois
        if self.box_normalizer == "positive":
            num_box_rois = max(sum(len(one) for one in proposals if one.has("gt_weights")), 1)
        losses = {
            "loss_cls": (weights * classification).sum() / num_rois,
            "loss_box_reg": (weights[positive] * regression).sum() / num_box_rois,
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}


def _boxes_and_targets(proposals: list[Instances]) -> tuple[Tensor, Tensor]:
    """Proposal boxes (R, 4) and the boxes they are matched to (R, 4; themselves if none)."""
    boxes = [one.proposal_boxes.tensor for one in proposals]
    targets = [
        (one.gt_boxes if one.has("gt_boxes") else one.proposal_boxes).tensor for one in proposals
    ]
    return torch.cat(boxes), torch.cat(targets)


@ROI_MASK_HEAD_REGISTRY.register()
class WeightedMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head with ω-weighted loss and a guard against empty targets."""

    def forward(self, x: Tensor, instances: list[Instances]):
        """
        Args:
            x: (P, C, h, w) features of the positive RoIs (training) or the boxes (inference).
            instances: in training, the positive proposals with `gt_masks` and `gt_weights`.
        """
        if not self.training:
            return super().forward(x, instances)
        logits = self.layers(x)
        return {"loss_mask": weighted_mask_loss(logits, instances) * self.loss_weight}


def weighted_mask_loss(logits: Tensor, instances: list[Instances]) -> Tensor:
    """Mean over positives of ω times the mean binary cross-entropy of their pixels.

    A positive whose target is empty (the pseudo mask does not reach into it) is left out.

    Args:
        logits: (P, 1, S, S).
        instances: positive proposals with `proposal_boxes`, `gt_masks` and `gt_weights`.
    """
    side = logits.shape[-1]
    targets, weights = [], []
    for one in instances:
        if len(one) == 0:
            continue
        crops = one.gt_masks.crop_and_resize(one.proposal_boxes.tensor, side)
        targets.append(crops.to(device=logits.device))
        weights.append(one.gt_weights)
    if not targets:
        return logits.sum() * 0.0
    target = torch.cat(targets).float()
    weight = torch.cat(weights) * target.flatten(1).any(dim=1)
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    return (weight * loss.mean(dim=(1, 2))).sum() / len(target)
