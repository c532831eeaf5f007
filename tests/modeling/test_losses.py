"""ω-weighted losses against loops and against Detectron2's own."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from spil_d2 import get_cfg
from spil_d2.modeling.losses import (
    WeightedFastRCNNOutputLayers,
    box_losses,
    checked_box_normalizer,
    image_weights,
    in_ignored,
    weighted_mask_loss,
)
from spil_d2.modeling.query_rpn import QueryRPN

TRANSFORM = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))


def _proposals(weight: float, seed: int, positives: int = 3, count: int = 6) -> Instances:
    generator = torch.Generator().manual_seed(seed)
    start = 50 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([start, start + 10 + 30 * torch.rand(count, 2, generator=generator)], dim=1)
    one = Instances((100, 100))
    one.proposal_boxes = Boxes(boxes)
    one.gt_classes = torch.tensor([0] * positives + [1] * (count - positives))
    one.gt_boxes = Boxes(boxes + 3 * torch.rand(count, 4, generator=generator))
    one.gt_weights = torch.full((count,), weight)
    return one


def _negatives(count: int = 4) -> Instances:
    one = _proposals(1.0, 9, positives=0, count=count)
    one.remove("gt_boxes")
    one.remove("gt_weights")
    return one


def _heads(**arguments) -> tuple[WeightedFastRCNNOutputLayers, FastRCNNOutputLayers]:
    shared = {
        "box2box_transform": TRANSFORM,
        "num_classes": 1,
        "cls_agnostic_bbox_reg": True,
        **arguments,
    }
    shape = ShapeSpec(channels=8, height=1, width=1)
    ours = WeightedFastRCNNOutputLayers(shape, negative_weight=0.5, **shared)
    return ours, FastRCNNOutputLayers(shape, **shared)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou"])
def test_equal_weights_give_detectron2s_losses(kind: str) -> None:
    ours, theirs = _heads(box_reg_loss_type=kind)
    proposals = [_proposals(1.0, 0), _proposals(1.0, 1)]
    generator = torch.Generator().manual_seed(2)
    predictions = (
        torch.randn(12, 2, generator=generator),
        0.1 * torch.randn(12, 4, generator=generator),
    )
    with EventStorage():
        expected = theirs.losses(predictions, proposals)
    for name, value in ours.losses(predictions, proposals).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_weights_scale_each_images_part_as_a_loop_does() -> None:
    ours, _ = _heads()
    proposals = [_proposals(0.7, 0), _proposals(0.2, 1), _negatives()]
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(16, 2, generator=generator)
    deltas = 0.1 * torch.randn(16, 4, generator=generator)
    cls, reg, row = 0.0, 0.0, 0
    for one, weight in zip(proposals, (0.7, 0.2, 0.5), strict=True):
        for i in range(len(one)):
            label = int(one.gt_classes[i])
            cls += weight * float(F.cross_entropy(logits[row], torch.tensor(label)))
            if label == 0:
                target = TRANSFORM.get_deltas(
                    one.proposal_boxes.tensor[i : i + 1], one.gt_boxes.tensor[i : i + 1]
                )
                reg += weight * float((deltas[row] - target[0]).abs().sum())
            row += 1
    losses = ours.losses((logits, deltas), proposals)
    assert float(losses["loss_cls"]) == pytest.approx(cls / 16, rel=1e-5)
    assert float(losses["loss_box_reg"]) == pytest.approx(reg / 16, rel=1e-5)


def test_weight_zero_removes_an_images_gradient() -> None:
    ours, _ = _heads()
    proposals = [_proposals(0.0, 0), _proposals(1.0, 1)]
    logits = torch.randn(12, 2, requires_grad=True)
    deltas = torch.randn(12, 4, requires_grad=True)
    sum(ours.losses((logits, deltas), proposals).values()).backward()
    assert not logits.grad[:6].any() and not deltas.grad[:6].any()
    assert logits.grad[6:].any() and deltas.grad[6:9].any()


def test_negative_maps_alone_give_zero_box_loss_and_finite_gradients() -> None:
    ours, _ = _heads()
    logits = torch.randn(8, 2, requires_grad=True)
    deltas = torch.randn(8, 4, requires_grad=True)
    losses = ours.losses((logits, deltas), [_negatives(), _negatives()])
    assert float(losses["loss_box_reg"].detach()) == 0
    sum(losses.values()).backward()
    assert deltas.grad is not None and not deltas.grad.any()


def test_null_maps_take_nothing_from_the_boxes_of_positive_maps() -> None:
    """By "positive" the box loss is that of the positive maps alone; by "all" each map counts."""
    positive, negative = [_proposals(0.7, 0), _proposals(0.2, 1)], [_negatives(6), _negatives(6)]
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(24, 2, generator=generator)
    deltas = torch.randn(24, 4, generator=generator)
    for normalizer, share in (("all", 0.5), ("positive", 1.0)):
        ours, _ = _heads()
        ours.box_normalizer = normalizer
        alone = ours.losses((logits[:12], deltas[:12]), positive)
        both = ours.losses((logits, deltas), positive + negative)
        torch.testing.assert_close(both["loss_box_reg"], share * alone["loss_box_reg"])
        nothing = ours.losses((logits[12:], deltas[12:]), negative)
        assert float(nothing["loss_box_reg"]) == 0
    with pytest.raises(ValueError, match="SPIL.BOX_NORMALIZER is 'none'"):
        checked_box_normalizer("none")


@pytest.mark.parametrize(("normalizer", "share"), [("all", 0.5), ("positive", 1.0)])
def test_null_maps_and_the_rpns_box_loss(normalizer: str, share: float) -> None:
    cfg = get_cfg()
    cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    cfg.MODEL.RPN.IN_FEATURES = ["p"]
    cfg.SPIL.BOX_NORMALIZER = normalizer
    rpn = QueryRPN(cfg, {"p": ShapeSpec(channels=4, stride=16)})
    maps = {"p": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    boxed = Instances((128, 128))
    boxed.gt_boxes = Boxes(torch.tensor([[10.0, 20, 90, 100]]))
    boxed.gt_weights = torch.ones(1)
    losses = []
    for pictures in (1, 2):
        torch.manual_seed(1)  # of the sampled anchors
        images = ImageList(torch.zeros(pictures, 3, 128, 128), [(128, 128)] * pictures)
        features = {name: one[:pictures] for name, one in maps.items()}
        with EventStorage():
            _, found = rpn(images, features, [boxed, boxed[[]]][:pictures])
        losses.append(found["loss_rpn_loc"].detach())
    assert float(losses[0]) > 0
    torch.testing.assert_close(losses[1], share * losses[0])


def test_box_losses_name_an_unknown_kind() -> None:
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    with pytest.raises(ValueError, match="'l3'"):
        box_losses(TRANSFORM, box, torch.zeros(1, 4), box, "l3")


def test_a_box_is_ignored_if_more_than_half_of_it_lies_in_one_region() -> None:
    regions = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],
            [0, 0, 20, 10],  # half of it: not more
            [0, 0, 19, 10],
            [5, 0, 25, 10],  # a quarter in each
            [2, 2, 4, 4],  # all of it, though a small part of the region
            [40, 40, 50, 50],
        ]
    )
    expected = []
    for box in boxes.tolist():
        shares = []
        for x0, y0, x1, y1 in regions.tolist():
            width = max(min(box[2], x1) - max(box[0], x0), 0)
            height = max(min(box[3], y1) - max(box[1], y0), 0)
            shares.append(width * height / ((box[2] - box[0]) * (box[3] - box[1])))
        expected.append(max(shares) > 0.5)
    assert expected == [True, False, True, False, True, False]
    assert in_ignored(Boxes(boxes), Boxes(regions)).tolist() == expected
    assert not in_ignored(Boxes(boxes), Boxes(regions[:0])).any()


def test_image_weight_is_the_first_boxs_or_the_negatives() -> None:
    with_boxes = Instances((10, 10))
    with_boxes.gt_boxes = Boxes(torch.tensor([[0.0, 0, 5, 5], [1, 1, 4, 4]]))
    with_boxes.gt_weights = torch.tensor([0.9, 0.3])
    empty = with_boxes[[]]
    assert image_weights([with_boxes, empty], 0.5).tolist() == pytest.approx([0.9, 0.5])
    assert image_weights([with_boxes, empty], 0.5, weighted=False).tolist() == [1.0, 0.5]


def test_mask_loss_is_the_weighted_mean_and_skips_empty_targets() -> None:
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 5:15, 5:15] = True
    one = Instances((20, 20))
    one.proposal_boxes = Boxes(torch.tensor([[5.0, 5, 15, 15], [0, 0, 10, 10]]))
    one.gt_masks = BitMasks(masks)
    one.gt_weights = torch.tensor([0.5, 1.0])
    logits = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = 0.5 * float(F.binary_cross_entropy_with_logits(logits[0, 0], torch.ones(4, 4))) / 2
    assert float(weighted_mask_loss(logits, [one])) == pytest.approx(expected, rel=1e-5)
    nothing = weighted_mask_loss(logits[:0].requires_grad_(), [])
    nothing.backward()
    assert float(nothing.detach()) == 0


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_smooth_l1_is_its_closed_form(beta: float) -> None:
    """x^2 / 2 beta below beta and |x| - beta / 2 above, summed over the four deltas."""
    box = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    # The target is the anchor itself: its deltas are 0.
    deltas = torch.tensor([[0.05, -0.5, 1.0, -3.0]])
    expected = sum(
        x * x / (2 * beta) if abs(x) < beta else abs(x) - beta / 2 for x in deltas[0].tolist()
    )
    found = box_losses(TRANSFORM, box, deltas, box, "smooth_l1", beta)
    assert found.tolist() == pytest.approx([expected], rel=1e-5)


def test_the_rpns_losses_are_a_loop_over_images_and_anchors() -> None:
    """Eq. 1 on the RPN too (D10), a foreign query's map at its own weight, one mean over all."""
    cfg = get_cfg()
    cfg.MODEL.RPN.HEAD_NAME, cfg.MODEL.RPN.IN_FEATURES = "StandardRPNHead", ["p"]
    cfg.SPIL.NEGATIVE_WEIGHT = 0.5
    rpn = QueryRPN(cfg, {"p": ShapeSpec(channels=4, stride=16)})
    generator = torch.Generator().manual_seed(0)
    counts, images = (5, 3), 3
    corners = [40 * torch.rand(n, 2, generator=generator) for n in counts]
    anchors = [Boxes(torch.cat([one, one + 20], dim=1)) for one in corners]
    logits = [torch.randn(images, n, generator=generator) for n in counts]
    deltas = [torch.randn(images, n, 4, generator=generator) for n in counts]
    labels = torch.tensor(
        [[1, 0, -1, 0, 1, 1, -1, 0], [0, 0, 1, -1, -1, 0, 0, 1], [0, 0, 0, -1, 0, 0, -1, 0]]
    )
    matched = [torch.cat([one.tensor for one in anchors]) + 3 for _ in range(images)]
    boxed = [_proposals(0.7, 0)[:1], _proposals(0.2, 1)[:1], _proposals(1.0, 2)[:0]]
    weights = image_weights(boxed, rpn.negative_weight)
    with EventStorage():
        found = rpn.weighted_losses(
            anchors, logits, list(labels), deltas, matched, weights, num_boxed=images
        )
    every, score, delta = (
        torch.cat([one.tensor for one in anchors]),
        torch.cat(logits, dim=1),
        torch.cat(deltas, dim=1),
    )
    objectness = localization = 0.0
    for i, weight in enumerate((0.7, 0.2, 0.5)):
        for a, is_object in enumerate(labels[i].tolist()):
            if is_object >= 0:
                p = 1 / (1 + math.exp(-float(score[i, a])))
                objectness -= weight * math.log(p if is_object else 1 - p)
            if is_object == 1:
                target = rpn.box2box_transform.get_deltas(every[a][None], matched[i][a][None])[0]
                differences = zip(delta[i, a].tolist(), target.tolist())
                localization += weight * sum(abs(x - y) for x, y in differences)
    samples = images * cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE
    assert float(found["loss_rpn_cls"]) == pytest.approx(objectness / samples, rel=1e-5)
    assert float(found["loss_rpn_loc"]) == pytest.approx(localization / samples, rel=1e-5)
