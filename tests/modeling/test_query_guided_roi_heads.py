"""QueryRCNN with GlobalTrack's heads: CST's localizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.layers import roi_align
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from spil_d2 import get_cfg
from spil_d2.engine.presets import resolve_config
from spil_d2.modeling.globaltrack_head import RoIModulator
from spil_d2.modeling.query_guided_roi_heads import QueryGuidedPooler

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = ("Base-CST-tiny.yaml", "MODEL.EFFICIENTNET.VARIANT", "lite0", "MODEL.BF16", "off")
# The official network with few channels; without ImageNet weights frozen normalization diverges.
SMALL = (
    *("Base-CST.yaml", "MODEL.FPN.OUT_CHANNELS", 8),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.RESNETS.NORM", "GN"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 30, "MODEL.RPN.POST_NMS_TOPK_TEST", 30),
)


def _config(preset: str, *changes):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / preset))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *changes])
    resolve_config(cfg)
    return cfg


def _spread(model) -> None:
    """Scores that differ by more than rounding, so that no order hangs on it."""
    generator = torch.Generator().manual_seed(1)
    predictor = model.roi_heads.box_predictor.cls_score
    for layer in (model.proposal_generator.rpn_head.objectness_logits, predictor):
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.data = weight / weight.flatten(1).norm(dim=1).mean()


@pytest.fixture(scope="module", params=[TINY, SMALL], ids=["tiny", "r50"])
def model(request):
    torch.manual_seed(0)
    return build_model(_config(*request.param))


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = build_model(_config(*TINY)).eval()
    _spread(model)
    return model


def _pixels(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 255, shape, generator=torch.Generator().manual_seed(seed))


def _item(seed: int, masks: bool = False, negative: bool = False) -> dict:
    instances = Instances((96, 128))
    instances.gt_boxes = Boxes(torch.tensor([[30.0, 20.0, 90.0, 80.0]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    instances.gt_weights = torch.tensor([0.8])
    if masks:
        mask = torch.zeros(1, 96, 128, dtype=torch.bool)
        mask[:, 25:75, 35:85] = True
        instances.gt_masks = BitMasks(mask)
    box = torch.tensor([[8.0, 8.0, 56.0, 56.0]] * 2)
    item = {
        "image": _pixels(seed, 3, 96, 128),
        "height": 192,
        "width": 256,
        "instances": instances,
        "query_crops": _pixels(seed + 100, 2, 3, 64, 64),
        "query_boxes": box,
    }
    if negative:
        item.update(negative_crops=_pixels(seed + 200, 2, 3, 64, 64), negative_boxes=box)
    return item


def _losses(model, items: list[dict]) -> dict[str, torch.Tensor]:
    model.train()
    with EventStorage():
        return model(items)


def _assert_same(first: Instances, second: Instances) -> None:
    torch.testing.assert_close(
        first.pred_boxes.tensor, second.pred_boxes.tensor, atol=1e-2, rtol=1e-4
    )
    torch.testing.assert_close(first.scores, second.scores, atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("negative", [False, True])
def test_training_losses_are_finite_and_reach_every_trained_parameter(model, negative) -> None:
    model.zero_grad()
    losses = _losses(model, [_item(0, negative=negative), _item(1)])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient for {without[:5]}"


def test_null_ground_truth_alone_trains_classification_only(model) -> None:
    item = _item(0)
    item["instances"] = item["instances"][[]]
    losses = {name: float(loss.detach()) for name, loss in _losses(model, [item]).items()}
    assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == 0
    assert losses["loss_rpn_cls"] > 0 and losses["loss_cls"] > 0


def test_kernels_are_regions_and_their_mean_is_used(tiny) -> None:
    tiny.eval()
    item = _item(0)
    with torch.no_grad():
        kernels = tiny.encode_query(item["query_crops"], item["query_boxes"])
        assert kernels.ndim == 4 and kernels.shape[2:] == (5, 5)
        from_crops = tiny([item])[0]["instances"]
        del item["query_crops"], item["query_boxes"]
        cached = tiny([{**item, "query_vectors": kernels}])[0]["instances"]
        mean = kernels.mean(dim=0, keepdim=True)
        from_mean = tiny([{**item, "query_vectors": mean}])[0]["instances"]
    _assert_same(from_crops, cached)
    _assert_same(from_crops, from_mean)


def test_cached_kernels_train_as_their_crops_do(tiny) -> None:
    items = [_item(i, negative=True) for i in range(2)]
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
        first = _losses(tiny, items)
        torch.manual_seed(0)
        second = _losses(tiny, cached)
    for name, loss in first.items():
        torch.testing.assert_close(loss, second[name], msg=name)


def test_many_queries_on_one_encoded_image_are_as_one_by_one(tiny) -> None:
    tiny.eval()
    with torch.no_grad():
        images = tiny.preprocess([_pixels(0, 3, 96, 128)])
        features = tiny.encode_gallery(images)
        box = torch.tensor([[8.0, 8.0, 56.0, 56.0]] * 4)
        kernels = tiny.encode_query(_pixels(1, 4, 3, 64, 64), box)
        together = tiny.detect(features, kernels, images.image_sizes)
        for kernel, expected in zip(kernels, together, strict=True):
            (alone,) = tiny.detect(features, kernel[None], images.image_sizes, with_masks=False)
            _assert_same(alone, expected)
    assert not torch.allclose(together[0].scores, together[1].scores, atol=1e-3)


def test_one_kernel_for_each_image_of_a_batch_is_as_alone(tiny) -> None:
    tiny.eval()
    items = [_item(0), _item(1)]
    with torch.no_grad():
        together = tiny(items)
        for item, expected in zip(items, together, strict=True):
            (alone,) = tiny([item])
            _assert_same(alone["instances"], expected["instances"])


def test_whole_pictures_of_any_size_are_encoded_as_alone(tiny) -> None:
    pictures = [_pixels(0, 3, 96, 160), _pixels(1, 3, 128, 64)]
    boxes = torch.tensor([[20.0, 10.0, 100.0, 80.0], [5.0, 30.0, 60.0, 120.0]])
    with torch.no_grad():
        together = tiny.encode_query(pictures, boxes)
        assert len(together) == 2
        # Whatever the other picture is, both are padded to 128 x 160.
        for i, other in enumerate((_pixels(2, 3, 128, 32), _pixels(2, 3, 32, 160))):
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
        images = tiny.preprocess([_pixels(0, 3, 96, 128)])
        features = tiny.encode_gallery(images)
        box = torch.tensor([[8.0, 8.0, 56.0, 56.0]] * 3)
        kernels = tiny.encode_query(_pixels(1, 3, 3, 64, 64), box)
        (mean,) = tiny.detect(features, kernels.mean(dim=0, keepdim=True), images.image_sizes)
        passes = []
        handle = tiny.proposal_generator.register_forward_pre_hook(lambda *_: passes.append(1))
        tiny.shared_template = True
        try:
            shared = tiny.detect(features, kernels, images.image_sizes)
        finally:
            tiny.shared_template = False
            handle.remove()
    assert len(passes) == 1 and len(shared) == 3
    for one in shared:
        _assert_same(one, mean)
    shared[0].pred_boxes.scale(2, 2)
    _assert_same(shared[1], mean)


def test_a_mask_head_is_guided_by_the_query_too() -> None:
    torch.manual_seed(0)
    keys = ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 5]
    keys += ["MODEL.ROI_MASK_HEAD.NAME", "WeightedMaskHead", "MODEL.ROI_MASK_HEAD.CONV_DIM", 16]
    keys += ["MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True]
    model = build_model(_config(*TINY, *keys))
    assert torch.isfinite(_losses(model, [_item(0, masks=True, negative=True)])["loss_mask"])
    model.eval()
    with torch.no_grad():
        images = model.preprocess([_pixels(0, 3, 96, 128)])
        features = model.encode_gallery(images)
        item = _item(0)
        kernels = model.encode_query(item["query_crops"], item["query_boxes"])
        found = model.detect(features, kernels, images.image_sizes)
        boxes = torch.cat([one.pred_boxes.tensor[:1] for one in found])
        masks = model.segment(features, kernels, boxes, images.image_sizes)
    for one, mask in zip(found, masks, strict=True):
        torch.testing.assert_close(mask, one.pred_masks[0, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(masks[0], masks[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7), "POOLER_RESOLUTION is 7.*= 5"),
        (("MODEL.CORRELATION_HEAD.NAME", "ChannelReweighting"), "NAME to GlobalTrack"),
    ],
)
def test_heads_that_do_not_fit_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(_config(*TINY, *changes))


def test_the_losses_fall_on_one_pair() -> None:
    """The query's texture lies in the picture: some steps find it."""
    torch.manual_seed(0)
    model = build_model(_config(*TINY))
    item = _item(0)
    item["image"][:, 20:80, 30:90] = _pixels(5, 3, 1, 60)
    item["query_crops"][:, :, 8:56, 8:56] = _pixels(5, 3, 1, 60)[:, :, :48]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for step in range(12):
        torch.manual_seed(step)
        total = sum(_losses(model, [item]).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert sum(totals[-3:]) < 0.6 * sum(totals[:3]), totals
