"""QueryRCNN with one-shot FSOD's heads: Attention-RPN and the multi-relation detector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from spil_d2 import get_cfg
from spil_d2.engine.presets import resolve_config
from spil_d2.modeling.attention_rpn import AttentionRPN
from spil_d2.modeling.globaltrack_head import QUERY_REGION
from spil_d2.modeling.multi_relation_heads import (
    GlobalRelation,
    LocalRelation,
    MultiRelation,
    PatchRelation,
)

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = (
    *("SPIL/fsod_tiny_instre_dev.yaml", "MODEL.EFFICIENTNET.VARIANT", "lite0"),
    *("MODEL.BF16", "off", "MODEL.FSOD.CHANNELS", 32, "MODEL.RPN.CONV_DIMS", [32]),
)
# C4 with few channels; without ImageNet weights frozen normalization diverges.
C4 = (
    *("Base-SPIL-paper.yaml", "MODEL.MASK_ON", False, "MODEL.RESNETS.NORM", "GN"),
    *("MODEL.CORRELATION_HEAD.NAME", "AttentionRPN"),
    *("MODEL.ROI_HEADS.NAME", "MultiRelationROIHeads", "MODEL.FSOD.RES5", True),
    *("MODEL.QUERY.POOLER_RESOLUTION", 14, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 20, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
)


def _config(preset: str, *changes):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / preset))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *changes])
    resolve_config(cfg)
    return cfg


@pytest.fixture(scope="module", params=[TINY, C4], ids=["tiny", "c4"])
def model(request):
    torch.manual_seed(0)
    return build_model(_config(*request.param))


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = build_model(_config(*TINY)).eval()
    # Scores that differ by more than rounding, so that no order hangs on it.
    generator = torch.Generator().manual_seed(1)
    for layer in (
        model.proposal_generator.rpn_head.objectness_logits,
        model.roi_heads.box_predictor.cls_score,
    ):
        weight = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.data = weight / weight.flatten(1).norm(dim=1).mean()
    return model


def _pixels(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 255, shape, generator=torch.Generator().manual_seed(seed))


def _item(seed: int, negative: bool = False) -> dict:
    instances = Instances((96, 128))
    instances.gt_boxes = Boxes(torch.tensor([[30.0, 20.0, 90.0, 80.0]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    instances.gt_weights = torch.tensor([0.8])
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


@pytest.fixture
def regions():
    """Five RoIs of 6 channels, three queries, and whose each RoI is."""
    torch.manual_seed(0)
    return torch.randn(5, 6, 7, 7), torch.randn(3, 6, 7, 7), torch.tensor([2, 0, 0, 1, 2])


def _randomize(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)


@torch.no_grad()
def test_the_global_relation_is_two_layers_on_both_means(regions) -> None:
    relation = GlobalRelation(6, 4)
    _randomize(relation)
    rois, queries, owners = regions
    weight = torch.cat([relation.roi.weight, relation.query.weight], dim=1)
    for roi, owner, found in zip(rois, owners, relation(*regions), strict=True):
        both = torch.cat([roi.mean(dim=(1, 2)), queries[owner].mean(dim=(1, 2))])
        hidden = F.linear(both, weight, relation.roi.bias).clamp(min=0)
        torch.testing.assert_close(found, relation.out(hidden).clamp(min=0))


@torch.no_grad()
def test_the_local_relation_is_a_depthwise_convolution_by_the_query(regions) -> None:
    relation = LocalRelation(6, 4)
    _randomize(relation)
    rois, queries, owners = regions
    for roi, owner, found in zip(rois, owners, relation(*regions), strict=True):
        x, z = relation.conv(roi[None]), relation.conv(queries[owner][None])
        correlated = F.conv2d(x, z.transpose(0, 1), groups=4)[0, :, 0, 0] / 49
        torch.testing.assert_close(found, correlated.clamp(min=0))


@torch.no_grad()
def test_the_patch_relation_convolves_both_side_by_side(regions) -> None:
    relation = PatchRelation(6, 8)
    _randomize(relation)
    rois, queries, owners = regions
    weight = torch.cat([relation.roi.weight, relation.query.weight], dim=1)
    for roi, owner, found in zip(rois, owners, relation(*regions), strict=True):
        both = torch.cat([roi, queries[owner]])[None]
        patches = F.conv2d(both, weight, relation.roi.bias).clamp(min=0)
        windows = [patches[..., i : i + 3, j : j + 3] for i in range(5) for j in range(5)]
        average = torch.stack([one.mean(dim=(2, 3)) for one in windows], -1).unflatten(-1, (5, 5))
        hidden = F.conv2d(average, relation.conv.weight, relation.conv.bias).clamp(min=0)
        assert hidden.shape == (1, 2, 3, 3)
        expected = F.conv2d(hidden, relation.out.weight, relation.out.bias).clamp(min=0)
        torch.testing.assert_close(found, expected.mean(dim=(2, 3))[0])


@torch.no_grad()
def test_res5_is_applied_to_rois_and_queries_alike(regions) -> None:
    res5 = torch.nn.Conv2d(6, 5, 3, padding=1)
    with_res5, without = MultiRelation(5, 4, res5), MultiRelation(5, 4)
    without.relations.load_state_dict(with_res5.relations.state_dict())
    rois, queries, owners = regions
    torch.testing.assert_close(
        with_res5(rois, queries, owners), without(res5(rois), res5(queries), owners)
    )


def test_the_rpn_sees_a_depthwise_correlation_and_the_heads_the_raw_map() -> None:
    torch.manual_seed(0)
    head = AttentionRPN({"m": ShapeSpec(4, stride=16)}, size=7)
    maps, kernels = {"m": torch.randn(1, 4, 5, 6)}, torch.randn(3, 4, 7, 7)
    correlated, raw = head(maps, kernels)
    for kernel, found in zip(kernels, correlated["m"], strict=True):
        support = F.avg_pool2d(kernel[None], 7).transpose(0, 1)
        torch.testing.assert_close(found[None], F.conv2d(maps["m"], support, groups=4))
    assert raw["m"] is maps["m"] and raw[QUERY_REGION] is kernels


def test_scores_are_the_relations_sum_and_boxes_the_patch_relations(tiny) -> None:
    predictor = tiny.roi_heads.box_predictor
    x = torch.randn(6, 96)
    with torch.no_grad():
        logits, deltas = predictor(x)
        expected = predictor.cls_score.bias
        for part, weight in zip(x.split(32, 1), predictor.cls_score.weight.split(32, 1)):
            expected = expected + part @ weight.T
        changed = x.clone()
        changed[:, :64] += 1
        assert torch.equal(predictor(changed)[1], deltas)
    torch.testing.assert_close(logits, expected)
    assert deltas.shape == (6, 4)


@pytest.mark.parametrize("negative", [False, True])
def test_training_losses_are_finite_and_reach_every_trained_parameter(model, negative) -> None:
    model.zero_grad()
    losses = _losses(model, [_item(0, negative=negative), _item(1)])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    sum(losses.values()).backward()
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    assert not without, f"no gradient for {without[:5]}"


def test_null_ground_truth_alone_trains_classification_only(model) -> None:
    item = _item(0)
    item["instances"] = item["instances"][[]]
    losses = {name: float(loss.detach()) for name, loss in _losses(model, [item]).items()}
    assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == 0
    assert losses["loss_rpn_cls"] > 0 and losses["loss_cls"] > 0


def test_a_pseudo_label_weighs_its_image(tiny) -> None:
    """Alone, without null ground truth, all losses are ω times those of weight 1."""
    item = _item(0)
    values = []
    for weight in (1.0, 0.25):
        item["instances"].gt_weights = torch.tensor([weight])
        torch.manual_seed(0)
        with torch.no_grad():
            values.append(_losses(tiny, [item]))
    for name, loss in values[0].items():
        torch.testing.assert_close(values[1][name], 0.25 * loss, msg=name)


def test_kernels_are_regions_and_their_mean_is_used(tiny) -> None:
    tiny.eval()
    item = _item(0)
    with torch.no_grad():
        kernels = tiny.encode_query(item["query_crops"], item["query_boxes"])
        assert kernels.ndim == 4 and kernels.shape[2:] == (7, 7)
        from_crops = tiny([item])[0]["instances"]
        del item["query_crops"], item["query_boxes"]
        mean = kernels.mean(dim=0, keepdim=True)
        from_mean = tiny([{**item, "query_vectors": mean}])[0]["instances"]
    _assert_same(from_crops, from_mean)


def test_many_queries_on_one_encoded_image_are_as_one_by_one(model) -> None:
    model.eval()
    with torch.no_grad():
        images = model.preprocess([_pixels(0, 3, 96, 128)])
        features = model.encode_gallery(images)
        box = torch.tensor([[8.0, 8.0, 56.0, 56.0]] * 4)
        kernels = model.encode_query(_pixels(1, 4, 3, 64, 64), box)
        seen = []
        handle = model.roi_heads.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        together = model.detect(features, kernels, images.image_sizes)
        handle.remove()
        for kernel, expected in zip(kernels, together, strict=True):
            (alone,) = model.detect(features, kernel[None], images.image_sizes, with_masks=False)
            _assert_same(alone, expected)
    # The gallery's maps are not copied for each query.
    assert all(len(y) == 1 for name, y in seen[0].items() if name != QUERY_REGION)


def test_different_queries_are_answered_differently(tiny) -> None:
    tiny.eval()
    with torch.no_grad():
        images = tiny.preprocess([_pixels(0, 3, 96, 128)])
        features = tiny.encode_gallery(images)
        box = torch.tensor([[8.0, 8.0, 56.0, 56.0]] * 2)
        kernels = tiny.encode_query(_pixels(1, 2, 3, 64, 64), box)
        first, second = tiny.detect(features, kernels, images.image_sizes)
    assert not torch.allclose(first.scores, second.scores, atol=1e-3)


def test_one_kernel_for_each_image_of_a_batch_is_as_alone(tiny) -> None:
    tiny.eval()
    items = [_item(0), _item(1)]
    with torch.no_grad():
        for item, expected in zip(items, tiny(items), strict=True):
            (alone,) = tiny([item])
            _assert_same(alone["instances"], expected["instances"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 5), "POOLER_RESOLUTION is 5.*= 7"),
        (("MODEL.CORRELATION_HEAD.NAME", "ChannelReweighting"), "NAME to AttentionRPN"),
        (("MODEL.MASK_ON", True), "MASK_ON to False"),
        (("MODEL.CORRELATION_HEAD.KERNEL_NORM", "max"), "KERNEL_NORM 'max'"),
        (
            ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 4, "MODEL.QUERY.POOLER_RESOLUTION", 4),
            "4 x 4 cells.*at least 5",
        ),
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
