"""QueryRCNN: every preset builds, trains on pairs, and treats queries independently."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes

from .query_models import (
    assert_all_learns,
    assert_same,
    config_of,
    training_item,
    training_losses,
)

PRESETS = ["Base-SPIL-tiny.yaml", "Base-SPIL-fast.yaml", "Base-SPIL-paper.yaml"]


def _config(preset: str, *changes):
    # Without ImageNet weights the stock frozen normalization diverges.
    keys = ["MODEL.RESNETS.NORM", "GN"]
    # res5 on every proposal is most of the `paper` preset's time.
    keys += ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8]
    keys += ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 20]
    return config_of(preset, *changes, *keys)


@pytest.fixture(scope="module", params=PRESETS)
def preset(request):
    torch.manual_seed(0)
    cfg = _config(request.param)
    return cfg, build_model(cfg)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    cfg = _config(PRESETS[0], "MODEL.BF16", "off")
    return build_model(cfg).eval()


def _item(seed: int, masks: bool, negative: bool = True) -> dict:
    return training_item(seed, masks, negative)


@pytest.mark.parametrize("negative", [True, False])
def test_training_losses_are_finite_and_reach_every_trained_parameter(preset, negative) -> None:
    cfg, model = preset
    model.zero_grad()
    losses = training_losses(model, [_item(i, cfg.MODEL.MASK_ON, negative) for i in range(2)])
    names = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert set(losses) == names
    assert_all_learns(model, losses)


def test_items_without_a_foreign_query_go_into_one_batch_with_others(preset) -> None:
    cfg, model = preset
    items = [_item(0, cfg.MODEL.MASK_ON, negative=False), _item(1, cfg.MODEL.MASK_ON)]
    seen = []
    handle = model.proposal_generator.register_forward_pre_hook(
        lambda _, given: seen.append([len(one) for one in given[2]])
    )
    losses = training_losses(model, items)
    handle.remove()
    assert all(torch.isfinite(loss) for loss in losses.values())
    # Two images with their own kernels, and the second once more with a foreign one.
    assert seen == [[1, 1, 0]]


def test_null_ground_truth_alone_trains_classification_only(preset) -> None:
    cfg, model = preset
    items = [_item(0, cfg.MODEL.MASK_ON, negative=False)]
    items[0]["instances"] = items[0]["instances"][[]]
    losses = {name: float(loss.detach()) for name, loss in training_losses(model, items).items()}
    assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == losses["loss_mask"] == 0
    assert losses["loss_rpn_cls"] > 0 and losses["loss_cls"] > 0


def test_anchors_in_ignore_regions_are_no_negatives(tiny) -> None:
    rpn = tiny.proposal_generator
    item = _item(0, False)
    anchors = rpn.anchor_generator([torch.zeros(1, 1, 6, 8)])
    tensor = anchors[0].tensor
    # Half of the picture's width, over a part of the object; and no region at all.
    regions = [Boxes(torch.tensor([[0.0, 0.0, 64.0, 96.0]])), Boxes(torch.zeros(0, 4))]
    size, rpn.batch_size_per_image = rpn.batch_size_per_image, 10_000
    try:
        instances = [item["instances"]] * 2
        before, _ = rpn.label_and_sample_anchors(anchors, instances)
        labels, boxes = rpn.label_and_sample_anchors(anchors, instances, regions)
    finally:
        rpn.batch_size_per_image = size
    assert torch.equal(labels[1], before[1])
    ignored = 0
    for anchor, was, now in zip(tensor.tolist(), before[0].tolist(), labels[0].tolist()):
        width = max(min(anchor[2], 64) - max(anchor[0], 0), 0)
        height = max(min(anchor[3], 96) - max(anchor[1], 0), 0)
        inside = width * height > 0.5 * (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
        assert now == (-1 if inside and was == 0 else was)
        ignored += inside and was == 0
    assert ignored > 0 and (labels[0] == 1).sum() == (before[0] == 1).sum() > 0
    assert torch.equal(boxes[0][0], item["instances"].gt_boxes.tensor[0])


def test_rois_in_ignore_regions_are_no_background(preset) -> None:
    """An item all of whose background is ignored: only positives are sampled of its own map."""
    cfg, model = preset
    items = [_item(i, cfg.MODEL.MASK_ON) for i in range(2)]
    items[0]["ignore_boxes"] = torch.tensor([[0.0, 0.0, 128.0, 96.0]])
    seen = []
    original = model.roi_heads.label_and_sample_proposals

    def watch(proposals, targets):
        sampled = original(proposals, targets)
        seen.extend(one.gt_classes for one in sampled)
        return sampled

    model.roi_heads.label_and_sample_proposals = watch
    try:
        losses = training_losses(model, items)
    finally:
        del model.roi_heads.label_and_sample_proposals
    assert all(torch.isfinite(loss) for loss in losses.values())
    own, other, *foreign = seen
    assert len(own) > 0 and (own == 0).all()
    # Regions belong to one image, and to a foreign query they are background.
    assert (other == 1).any() and len(foreign) == 2
    assert all((one == 1).all() and len(one) == 8 for one in foreign)


def test_an_empty_ignore_region_changes_nothing(tiny) -> None:
    losses = []
    for boxes in (None, torch.zeros(0, 4)):
        items = [_item(i, True) for i in range(2)]
        if boxes is not None:
            items[0]["ignore_boxes"] = boxes
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(training_losses(tiny, items))
    tiny.eval()
    for name, loss in losses[0].items():
        assert torch.equal(loss, losses[1][name]), name


def test_masks_of_known_boxes_are_those_of_detection(preset) -> None:
    _, model = preset
    model.eval()
    image = _item(0, False)["image"]
    with torch.no_grad():
        images = model.preprocess([image])
        features = model.encode_gallery(images)
        kernels = model.encode_query(*(_item(0, False)[f"query_{x}"] for x in ("crops", "boxes")))
        found = model.detect(features, kernels, images.image_sizes)
        boxes = torch.cat([one.pred_boxes.tensor[:1] for one in found])
        masks = model.segment(features, kernels, boxes, images.image_sizes)
    assert model.has_masks and len(masks) == 2
    for one, mask in zip(found, masks, strict=True):
        torch.testing.assert_close(mask, one.pred_masks[0, 0], atol=1e-4, rtol=1e-4)


def test_inference_answers_in_the_output_frame(preset) -> None:
    _, model = preset
    model.eval()
    with torch.no_grad():
        (answer,) = model([_item(0, False)])
    instances = answer["instances"]
    assert instances.image_size == (192, 256)
    assert 0 < len(instances) <= 100
    assert instances.pred_masks.shape[1:] == (192, 256)
    boxes = instances.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, 2] <= 256).all() and (boxes[:, 3] <= 192).all()


def test_many_queries_on_one_encoded_image_are_as_one_by_one(tiny) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 255, (3, 96, 128), generator=generator)
    width = tiny.correlation_head.correlation["fused"].weight.shape[1]
    kernels = torch.randn(4, width, generator=generator)
    with torch.no_grad():
        images = tiny.preprocess([image])
        features = tiny.encode_gallery(images)
        together = tiny.detect(features, kernels, images.image_sizes)
        for kernel, expected in zip(kernels, together, strict=True):
            (alone,) = tiny.detect(features, kernel[None], images.image_sizes)
            assert_same(alone, expected)
            boxes_only = tiny.detect(features, kernel[None], images.image_sizes, with_masks=False)
            torch.testing.assert_close(boxes_only[0].pred_boxes.tensor, alone.pred_boxes.tensor)


def test_the_kernel_is_the_mean_of_the_crops_object_vectors(tiny) -> None:
    item = _item(0, False)
    with torch.no_grad():
        vectors = tiny.encode_query(item["query_crops"], item["query_boxes"])
        with_crops = tiny([item])[0]["instances"]
        del item["query_crops"], item["query_boxes"]
        with_vectors = tiny([{**item, "query_vectors": vectors}])[0]["instances"]
    torch.testing.assert_close(with_crops.pred_boxes.tensor, with_vectors.pred_boxes.tensor)


def test_pooling_the_box_leaves_the_padding_out(tiny) -> None:
    """D3: what lies outside the object's box does not change its vector much; inside does."""
    generator = torch.Generator().manual_seed(0)
    crops = torch.full((2, 3, 256, 256), 128)
    crops[:, :, 128:, 128:] = torch.randint(0, 255, (3, 128, 128), generator=generator)
    crops[1, :, :, :48] = 0
    box = torch.tensor([[144.0, 144.0, 240.0, 240.0]] * 2)
    with torch.no_grad():
        inside = tiny.encode_query(crops, box)
        whole = tiny.encode_query(crops, torch.tensor([[0.0, 0, 256, 256]] * 2))
    assert (inside[0] - inside[1]).norm() < (whole[0] - whole[1]).norm() / 2


def test_the_kernel_that_meets_the_map_is_the_mean_of_each_items_crops_by_a_loop(tiny) -> None:
    """Eq. 3 with n crops, for a batch whose items have different n."""
    items = [_item(0, False), _item(1, False)]
    items[1]["query_crops"], items[1]["query_boxes"] = (
        torch.cat([items[1][key], items[1][key][:1]]) for key in ("query_crops", "query_boxes")
    )
    seen = []
    handle = tiny.correlation_head.register_forward_pre_hook(
        lambda _, given: seen.append(given[1].clone())
    )
    with torch.no_grad():
        tiny(items)
        alone = [
            [tiny.encode_query(crop[None], box[None])[0].tolist() for crop, box in
             zip(item["query_crops"], item["query_boxes"])]
            for item in items
        ]  # fmt: skip
    handle.remove()
    (kernels,) = seen
    assert [len(vectors) for vectors in alone] == [2, 3] and len(kernels) == 2
    for vectors, kernel in zip(alone, kernels, strict=True):
        for c in range(len(kernel)):
            mean = sum(vector[c] for vector in vectors) / len(vectors)
            assert float(kernel[c]) == pytest.approx(mean, rel=1e-3, abs=1e-4)


def test_the_object_vector_of_a_linear_map_is_its_value_at_the_boxs_centre(
    tiny, monkeypatch
) -> None:
    """A closed form of RoIAlign and the mean (D3): samples lie evenly around the centre."""
    (level,) = tiny.query_levels
    stride = round(1 / tiny.query_pooler.level_poolers[0].spatial_scale)
    cells = torch.arange(16, dtype=torch.float32)
    columns, rows = cells[None, :].expand(16, 16), cells[:, None].expand(16, 16)
    ramp = torch.stack([columns, rows, 2 * columns - rows + 5])[None]
    monkeypatch.setattr(tiny, "_backbone_maps", lambda _: {level: ramp})
    box = torch.tensor([[40.0, 64.0, 120.0, 200.0]])
    side = 16 * stride
    (vector,) = tiny.encode_query(torch.zeros(1, 3, side, side), box)
    # Cell i has its centre at (i + 1/2) strides.
    x, y = 80.0 / stride - 0.5, 132.0 / stride - 0.5
    assert vector.tolist() == pytest.approx([x, y, 2 * x - y + 5], rel=1e-4)
