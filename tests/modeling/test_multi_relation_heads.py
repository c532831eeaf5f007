"""QueryRCNN with one-shot FSOD's heads: Attention-RPN and the multi-relation detector."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch.nn import functional as F

from spil_d2.modeling.attention_rpn import AttentionRPN
from spil_d2.modeling.globaltrack_head import QUERY_REGION
from spil_d2.modeling.multi_relation_heads import (
    GlobalRelation,
    LocalRelation,
    MultiRelation,
    PatchRelation,
)

from .query_models import (
    FSOD,
    FSOD_C4,
    config_of,
    spread_scores,
    training_item,
    training_losses,
)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return spread_scores(build_model(config_of(*FSOD)).eval())


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


def test_a_pseudo_label_weighs_its_image(tiny) -> None:
    """Alone, without null ground truth, all losses are ω times those of weight 1."""
    item = training_item(0)
    values = []
    for weight in (1.0, 0.25):
        item["instances"].gt_weights = torch.tensor([weight])
        torch.manual_seed(0)
        with torch.no_grad():
            values.append(training_losses(tiny, [item]))
    for name, loss in values[0].items():
        torch.testing.assert_close(values[1][name], 0.25 * loss, msg=name)


@pytest.mark.parametrize("preset", [FSOD, FSOD_C4], ids=["tiny", "c4"])
def test_foreign_queries_train_every_parameter(preset) -> None:
    """No gradient is all zeros, as that of a relation that nothing hangs on would be."""
    torch.manual_seed(0)
    model = build_model(config_of(*preset))
    losses = training_losses(model, [training_item(0, negative=True), training_item(1)])
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert not without, f"no gradient for {without[:5]}"
