"""RPN whose losses are weighted by the confidence of each image's pseudo label."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn import functional as F

from .losses import box_losses, checked_box_normalizer, image_weights, in_ignored


@PROPOSAL_GENERATOR_REGISTRY.register()
class QueryRPN(RPN):
    """Detectron2's RPN on correlated features.

    The box of an image with pseudo-label confidence ω contributes ω times its losses (D10); a
    null-ground-truth image contributes `negative_weight` times (D8).
    """

    @configurable
    def __init__(
        self,
        *,
        negative_weight: float = 1.0,
        weighted: bool = True,
        box_normalizer: str = "all",
        **kwargs,
    ):
        """
        Args:
            negative_weight: weight of the images of null ground truth.
            weighted: False trains the RPN at full weight on every pseudo label.
            box_normalizer: one of `BOX_NORMALIZERS`.
        """
        super().__init__(**kwargs)
        self.negative_weight = negative_weight
        self.weighted = weighted
        self.box_normalizer = checked_box_normalizer(box_normalizer)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            **super().from_config(cfg, input_shape),
            "negative_weight": cfg.SPIL.NEGATIVE_WEIGHT,
            "weighted": cfg.SPIL.WEIGHT_RPN,
            "box_normalizer": cfg.SPIL.BOX_NORMALIZER,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        gt_instances: list[Instances] | None = None,
        ignored: list[Boxes] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As Detectron2's; `gt_instances` carry `gt_weights` (G,), the first being the image's.

        `ignored` are the ignore regions of each image, whose anchors are no negatives (D20).
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        logits = [one.float().permute(0, 2, 3, 1).flatten(1) for one in logits]
        deltas = [
            one.float()
            .unflatten(1, (-1, self.anchor_generator.box_dim))
            .permute(0, 3, 4, 1, 2)
            .flatten(1, -2)
            for one in deltas
        ]
        losses = {}
        if self.training:
            assert gt_instances is not None, "the RPN needs gt_instances in training"
            labels, gt_boxes = self.label_and_sample_anchors(anchors, gt_instances, ignored)
            weights = image_weights(gt_instances, self.negative_weight, self.weighted)
            num_boxed = len(gt_instances)
            if self.box_normalizer == "positive":
                num_boxed = max(sum(len(one) > 0 for one in gt_instances), 1)
            losses = self.weighted_losses(
                anchors, logits, labels, deltas, gt_boxes, weights, num_boxed
            )
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    @torch.no_grad()
    def label_and_sample_anchors(
        self,
        anchors: list[Boxes],
        gt_instances: list[Instances],
        ignored: list[Boxes] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As Detectron2's, but negatives in ignore regions get the label -1 before sampling.

        Returns:
            Of each image the labels (A,) of 1, 0 or -1, and the boxes (A, 4) matched to the
            anchors.
        """
        if ignored is None:
            return super().label_and_sample_anchors(anchors, gt_instances)
        every = Boxes.cat(anchors)
        labels, matched = [], []
        for one, regions in zip(gt_instances, ignored, strict=True):
            indices, label = self.anchor_matcher(pairwise_iou(one.gt_boxes, every))
            if self.anchor_boundary_thresh >= 0:
                label[~every.inside_box(one.image_size, self.anchor_boundary_thresh)] = -1
            label[(label == 0) & in_ignored(every, regions)] = -1
            labels.append(self._subsample_labels(label))
            boxes = one.gt_boxes.tensor
            matched.append(boxes[indices] if len(boxes) else torch.zeros_like(every.tensor))
        return labels, matched

    def weighted_losses(
        self,
        anchors: list[Boxes],
        logits: list[Tensor],
        gt_labels: list[Tensor],
        deltas: list[Tensor],
        gt_boxes: list[Tensor],
        weights: Tensor,
        num_boxed: int,
    ) -> dict[str, Tensor]:
        """Detectron2's RPN losses with one weight an image.

        Args:
            anchors: L levels of (A_l, 4) anchors.
            logits: L tensors (B, A_l).
            gt_labels: B tensors (sum A_l,) of 1, 0 or -1 (ignored).
            deltas: L tensors (B, A_l, 4).
            gt_boxes: B tensors (sum A_l, 4), the box matched to each anchor.
            weights: (B,).
            num_boxed: images whose samples the box loss is divided by.
        """
        labels = torch.stack(gt_labels)
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", (labels == 1).sum().item() / len(labels))
        storage.put_scalar("rpn/num_neg_anchors", (labels == 0).sum().item() / len(labels))
        objectness = F.binary_cross_entropy_with_logits(
            torch.cat(logits, dim=1), labels.clamp(min=0).float(), reduction="none"
        )
        objectness = (objectness * (labels >= 0)).sum(dim=1)
        image, anchor = (labels == 1).nonzero(as_tuple=True)
        localization = box_losses(
            self.box2box_transform,
            torch.cat([level.tensor for level in anchors])[anchor],
            torch.cat(deltas, dim=1)[image, anchor],
            torch.stack(gt_boxes)[image, anchor],
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        samples = self.batch_size_per_image
        losses = {
            "loss_rpn_cls": (weights * objectness).sum() / (samples * len(labels)),
            "loss_rpn_loc": (weights[image] * localization).sum() / (samples * num_boxed),
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}
