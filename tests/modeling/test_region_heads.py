"""What the heads that see a query's region have in common: GlobalTrack's and one-shot FSOD's."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from spil_d2.modeling.globaltrack_head import QUERY_REGION

from .query_models import (
    FSOD,
    FSOD_C4,
    GLOBALTRACK,
    GLOBALTRACK_R50,
    assert_all_learns,
    assert_same,
    config_of,
    encoded,
    random_pixels,
    spread_scores,
    training_item,
    training_losses,
)

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
SMALL = {"globaltrack": GLOBALTRACK, "fsod": FSOD}
ALL = {**SMALL, "globaltrack_r50": GLOBALTRACK_R50, "fsod_c4": FSOD_C4}


@pytest.fixture(scope="module", params=ALL)
def model(request):
    torch.manual_seed(0)
    return build_model(config_of(*ALL[request.param]))


@pytest.fixture(scope="module", params=SMALL)
def tiny(request):
    torch.manual_seed(0)
    return spread_scores(build_model(config_of(*SMALL[request.param])))


@pytest.mark.parametrize("negative", [False, True])
def test_training_losses_are_finite_and_reach_every_trained_parameter(model, negative) -> None:
    model.zero_grad()
    losses = training_losses(model, [training_item(0, negative=negative), training_item(1)])
    assert set(losses) == LOSSES
    assert_all_learns(model, losses)


def test_null_ground_truth_alone_trains_classification_only(model) -> None:
    item = training_item(0)
    item["instances"] = item["instances"][[]]
    losses = {name: float(loss.detach()) for name, loss in training_losses(model, [item]).items()}
    assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == 0
    assert losses["loss_rpn_cls"] > 0 and losses["loss_cls"] > 0


def test_kernels_are_regions_and_their_mean_is_used(tiny) -> None:
    tiny.eval()
    item = training_item(0)
    with torch.no_grad():
        kernels = tiny.encode_query(item["query_crops"], item["query_boxes"])
        side = tiny.query_pooler.output_size[0]
        assert kernels.ndim == 4 and kernels.shape[2:] == (side, side)
        from_crops = tiny([item])[0]["instances"]
        del item["query_crops"], item["query_boxes"]
        cached = tiny([{**item, "query_vectors": kernels}])[0]["instances"]
        mean = kernels.mean(dim=0, keepdim=True)
        from_mean = tiny([{**item, "query_vectors": mean}])[0]["instances"]
    assert_same(from_crops, cached)
    assert_same(from_crops, from_mean)


def test_many_queries_on_one_encoded_image_are_as_one_by_one(model) -> None:
    model.eval()
    with torch.no_grad():
        features, kernels, sizes = encoded(model, 4)
        seen = []
        handle = model.roi_heads.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        together = model.detect(features, kernels, sizes)
        handle.remove()
        for kernel, expected in zip(kernels, together, strict=True):
            (alone,) = model.detect(features, kernel[None], sizes, with_masks=False)
            assert_same(alone, expected)
    # The gallery's maps are not copied for each query.
    assert all(len(y) == 1 for name, y in seen[0].items() if name != QUERY_REGION)


def test_different_queries_are_answered_differently(tiny) -> None:
    tiny.eval()
    with torch.no_grad():
        features, kernels, sizes = encoded(tiny, 2)
        first, second = tiny.detect(features, kernels, sizes)
    assert not torch.allclose(first.scores, second.scores, atol=1e-3)


def test_one_kernel_for_each_image_of_a_batch_is_as_alone(tiny) -> None:
    tiny.eval()
    items = [training_item(0), training_item(1)]
    with torch.no_grad():
        for item, expected in zip(items, tiny(items), strict=True):
            (alone,) = tiny([item])
            assert_same(alone["instances"], expected["instances"])


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        (GLOBALTRACK, ("ROI_BOX_HEAD.POOLER_RESOLUTION", 7), "POOLER_RESOLUTION is 7.*= 5"),
        (GLOBALTRACK, ("CORRELATION_HEAD.NAME", "ChannelReweighting"), "NAME to GlobalTrack"),
        (FSOD, ("ROI_BOX_HEAD.POOLER_RESOLUTION", 5), "POOLER_RESOLUTION is 5.*= 7"),
        (FSOD, ("CORRELATION_HEAD.NAME", "ChannelReweighting"), "NAME to AttentionRPN"),
        (FSOD, ("MASK_ON", True), "MASK_ON to False"),
        (FSOD, ("CORRELATION_HEAD.KERNEL_NORM", "max"), "KERNEL_NORM 'max'"),
        (
            FSOD,
            ("ROI_BOX_HEAD.POOLER_RESOLUTION", 4, "QUERY.POOLER_RESOLUTION", 4),
            "4 x 4 cells.*at least 5",
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused(preset, changes, message) -> None:
    keys = [word if i % 2 else f"MODEL.{word}" for i, word in enumerate(changes)]
    with pytest.raises(ValueError, match=message):
        build_model(config_of(*preset, *keys))


@pytest.mark.parametrize("name", SMALL)
def test_the_losses_fall_on_one_pair(name: str) -> None:
    """The query's texture lies in the picture: some steps find it."""
    torch.manual_seed(0)
    model = build_model(config_of(*SMALL[name]))
    item = training_item(0)
    item["image"][:, 20:80, 30:90] = random_pixels(5, 3, 1, 60)
    item["query_crops"][:, :, 8:56, 8:56] = random_pixels(5, 3, 1, 60)[:, :, :48]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for step in range(12):
        torch.manual_seed(step)
        total = sum(training_losses(model, [item]).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert sum(totals[-3:]) < 0.6 * sum(totals[:3]), totals
