"""QueryRCNN with GlobalTrack's heads: CST's localizer."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import roi_align
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch.nn import functional as F

from spil_d2.modeling.globaltrack_head import RoIModulator
from spil_d2.modeling.query_guided_roi_heads import QueryGuidedPooler

from .query_models import (
    GLOBALTRACK,
    assert_same,
    config_of,
    encoded,
    random_pixels,
    spread_scores,
    training_item,
    training_losses,
)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return spread_scores(build_model(config_of(*GLOBALTRACK)).eval())


def test_the_pooler_is_the_naive_loop() -> None:
    torch.manual_seed(0)
    modulator = RoIModulator(6, 4)
    for parameter in modulator.parameters():
        torch.nn.init.normal_(parameter)
    pooler = QueryGuidedPooler(ROIPooler(5, [1 / 8], 2, "ROIAlignV2"), modulator)
    images, queries = torch.randn(3, 6, 12, 16), torch.randn(3, 6, 5, 5)
    lists = [
        Boxes(torch.tensor([[8.0, 8, 60, 50], [0, 0, 30, 90]])),
        Boxes(torch.zeros(0, 4)),
        Boxes(torch.tensor([[50.0, 20, 120, 80]])),
    ]
    with torch.no_grad():
        for maps in (images, images[:1]):
            found = pooler([maps, queries], lists)
            expected = []
            for i, boxes in enumerate(lists):
                z = F.conv2d(queries[i], modulator.query.weight, modulator.query.bias, padding=1)
                for box in boxes.tensor:
                    one = maps[min(i, len(maps) - 1)][None]
                    region = roi_align(one, [box[None]], 5, 1 / 8, 2, True)
                    x = F.conv2d(
                        region, modulator.gallery.weight, modulator.gallery.bias, padding=1
                    )
                    expected.append(F.conv2d(x * z, modulator.out.weight, modulator.out.bias))
            torch.testing.assert_close(found, torch.cat(expected), atol=1e-3, rtol=1e-4)


def test_cached_kernels_train_as_their_crops_do(tiny) -> None:
    items = [training_item(i, negative=True) for i in range(2)]
    with torch.no_grad():
        cached = []
        for one in items:
            kept = {k: v for k, v in one.items() if not k.endswith(("_crops", "_boxes"))}
            for role in ("query", "negative"):
                kept[f"{role}_vectors"] = tiny.encode_query(
                    one[f"{role}_crops"], one[f"{role}_boxes"]
                )
            cached.append(kept)
        torch.manual_seed(0)
        first = training_losses(tiny, items)
        torch.manual_seed(0)
        second = training_losses(tiny, cached)
    for name, loss in first.items():
        torch.testing.assert_close(loss, second[name], msg=name)


def test_whole_pictures_of_any_size_are_encoded_as_alone(tiny) -> None:
    pictures = [random_pixels(0, 3, 96, 160), random_pixels(1, 3, 128, 64)]
    boxes = torch.tensor([[20.0, 10.0, 100.0, 80.0], [5.0, 30.0, 60.0, 120.0]])
    with torch.no_grad():
        together = tiny.encode_query(pictures, boxes)
        assert len(together) == 2
        # Whatever the other picture is, both are padded to 128 x 160.
        for i, other in enumerate((random_pixels(2, 3, 128, 32), random_pixels(2, 3, 32, 160))):
            batch = [pictures[0], other] if i == 0 else [other, pictures[1]]
            again = tiny.encode_query(batch, boxes)
            torch.testing.assert_close(together[i], again[i], atol=1e-4, rtol=1e-4)
        # Multiples of 32 are not padded when alone, as crops are not.
        (alone,) = tiny.encode_query(pictures[0][None], boxes[:1])
        (listed,) = tiny.encode_query(pictures[:1], boxes[:1])
    assert torch.equal(alone, listed)


def test_a_shared_template_gives_all_queries_the_boxes_of_their_mean(tiny) -> None:
    tiny.eval()
    with torch.no_grad():
        features, kernels, sizes = encoded(tiny, 3)
        (mean,) = tiny.detect(features, kernels.mean(dim=0, keepdim=True), sizes)
        passes = []
        handle = tiny.proposal_generator.register_forward_pre_hook(lambda *_: passes.append(1))
        tiny.shared_template = True
        try:
            shared = tiny.detect(features, kernels, sizes)
        finally:
            tiny.shared_template = False
            handle.remove()
    assert len(passes) == 1 and len(shared) == 3
    for one in shared:
        assert_same(one, mean)
    shared[0].pred_boxes.scale(2, 2)
    assert_same(shared[1], mean)


def test_a_mask_head_is_guided_by_the_query_too() -> None:
    torch.manual_seed(0)
    keys = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 5]
    keys += ["MODEL.ROI_MASK_HEAD.NAME", "WeightedMaskHead", "MODEL.ROI_MASK_HEAD.CONV_DIM", 16]
    keys += ["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True]
    model = build_model(config_of(*GLOBALTRACK, *keys))
    assert torch.isfinite(
        training_losses(model, [training_item(0, masks=True, negative=True)])["loss_mask"]
    )
    model.eval()
    with torch.no_grad():
        features, kernels, sizes = encoded(model, 2)
        found = model.detect(features, kernels, sizes)
        boxes = torch.cat([one.pred_boxes.tensor[:1] for one in found])
        masks = model.segment(features, kernels, boxes, sizes)
    for one, mask in zip(found, masks, strict=True):
        torch.testing.assert_close(mask, one.pred_masks[0, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(masks[0], masks[1])
