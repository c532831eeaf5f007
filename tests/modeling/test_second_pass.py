"""A second look at known boxes against RoI heads called box by box."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes

from spil_d2 import get_cfg
from spil_d2.engine.presets import resolve_config

CONFIGS = Path(__file__).parents[2] / "configs"
HEIGHT, WIDTH = 96, 128
# A narrow ResNet; without ImageNet weights frozen normalization diverges.
NARROW = (
    *("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 32),
)
PRESETS = {
    "QueryStandardROIHeads": ("Base-SPIL-tiny.yaml", "MODEL.EFFICIENTNET.VARIANT", "lite0"),
    "QueryRes5ROIHeads": ("Base-SPIL-paper.yaml", *NARROW),
    "QueryGuidedROIHeads": ("Base-CST-tiny.yaml", "MODEL.EFFICIENTNET.VARIANT", "lite0"),
}
BOXES = torch.tensor([[10.0, 12.0, 60.0, 70.0], [50.0, 20.0, 126.0, 90.0], [4.0, 4.0, 40.0, 30.0]])


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    cfg = get_cfg()
    preset, *changes = PRESETS[request.param]
    cfg.merge_from_file(str(CONFIGS / preset))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BF16", "off", *changes])
    resolve_config(cfg)
    assert cfg.MODEL.ROI_HEADS.NAME == request.param
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    # At first all deltas are nearly zero.
    predictor = model.roi_heads.box_predictor.bbox_pred
    torch.nn.init.normal_(predictor.weight, std=0.2)
    torch.nn.init.normal_(predictor.bias, std=1.0)
    return model


@pytest.fixture(scope="module")
def inputs(model):
    """Features of one image, its size, and a kernel for each box."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        image = torch.randint(0, 255, (3, HEIGHT, WIDTH), generator=generator)
        images = model.preprocess([image])
        crops = torch.randint(0, 255, (3, 3, 64, 64), generator=generator)
        kernels = model.encode_query(crops, torch.tensor([[8.0, 8.0, 56.0, 56.0]] * 3))
        return model.encode_gallery(images), kernels, images.image_sizes


def _deltas(model, features: dict, kernel: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    heads = model.roi_heads
    _, maps = model.correlation_head(features, kernel)
    if hasattr(heads, "res5"):
        pooled = heads.pooler([maps[name] for name in heads.in_features], [Boxes(box)])
        x = heads.res5(pooled).mean(dim=(2, 3))
    else:
        pooled = heads.box_pooler([maps[name] for name in heads.box_in_features], [Boxes(box)])
        x = heads.box_head(pooled)
    return heads.box_predictor(x)[1][0] / torch.tensor(
        heads.box_predictor.box2box_transform.weights
    )


def _moved(box: list[float], deltas: list[float]) -> list[float]:
    width, height = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + (0.5 + deltas[0]) * width, box[1] + (0.5 + deltas[1]) * height
    width, height = width * math.exp(deltas[2]), height * math.exp(deltas[3])
    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return [min(max(v, 0.0), limit) for v, limit in zip(corners, (WIDTH, HEIGHT) * 2)]


def test_boxes_move_as_the_heads_say_of_each_alone(model, inputs) -> None:
    features, kernels, sizes = inputs
    with torch.no_grad():
        refined = model.refine(features, kernels, BOXES, sizes)
        for i, box in enumerate(BOXES):
            deltas = _deltas(model, features, kernels[i : i + 1], box[None])
            expected = torch.tensor(_moved(box.tolist(), deltas.tolist()))
            torch.testing.assert_close(refined[i], expected, atol=1e-2, rtol=1e-4)
    assert (refined - BOXES).abs().amax(dim=1).min() > 0.5, "the boxes have moved"


def test_boxes_that_are_no_object_stay(model, inputs, monkeypatch) -> None:
    monkeypatch.setattr(model.roi_heads.box_predictor, "test_score_thresh", 1.0)
    features, kernels, sizes = inputs
    with torch.no_grad():
        assert torch.equal(model.refine(features, kernels, BOXES, sizes), BOXES)
