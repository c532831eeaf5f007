"""TFA's cosine classifier."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from spil_d2.modeling.cosine_classifier import CosineOutputLayers


def _layers(num_classes: int = 3, scale: float = 20.0) -> CosineOutputLayers:
    torch.manual_seed(0)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    return CosineOutputLayers(
        ShapeSpec(channels=6), box2box_transform=transform, num_classes=num_classes, scale=scale
    )


def test_scores_are_scaled_cosines() -> None:
    layers, x = _layers(), torch.randn(5, 6)
    with torch.no_grad():
        logits, deltas = layers(x)
    assert logits.shape == (5, 4) and deltas.shape == (5, 12)
    for roi, row in zip(x, logits, strict=True):
        for weight, found in zip(layers.cls_score.weight, row, strict=True):
            cosine = roi @ weight / (roi.norm() * weight.norm())
            torch.testing.assert_close(found, 20 * cosine)


def test_the_length_of_a_feature_does_not_change_classes() -> None:
    layers, x = _layers(), torch.randn(2, 6)
    with torch.no_grad():
        first, second = layers(x), layers(3 * x)
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


def test_losses_reach_both_layers() -> None:
    layers = _layers()
    proposals = Instances((50, 50))
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]]))
    proposals.proposal_boxes = proposals.gt_boxes = boxes
    proposals.gt_classes = torch.tensor([1, 3])
    with EventStorage():
        losses = layers.losses(layers(torch.randn(2, 6)), [proposals])
    sum(losses.values()).backward()
    assert layers.cls_score.bias is None
    assert layers.cls_score.weight.grad.any() and layers.bbox_pred.weight.grad.any()
