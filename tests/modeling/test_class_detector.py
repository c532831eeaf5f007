"""ClassRCNN is its localizer run once a class, with the results put together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from spil_d2 import get_cfg
from spil_d2.modeling import ClassRCNN
from spil_d2.modeling.class_detector import describe_boxes

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/few_shot_tiny_instant_test.yaml"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.MODEL.BF16 = "off"
    return build_model(cfg).eval()


@pytest.fixture(scope="module")
def kernels(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 255, (3, 3, 96, 96), generator=generator)
    with torch.no_grad():
        return model.encode_query(crops, torch.tensor([[8.0, 8.0, 88.0, 88.0]] * 3))


@pytest.fixture(scope="module")
def item() -> dict:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 255, (3, 96, 128), generator=generator)
    return {"image": image, "height": 192, "width": 256}


@pytest.fixture(scope="module")
def one_by_one(model, kernels, item) -> list[tuple]:
    """(box in the output frame, p, class) of each class's own pass."""
    found = []
    with torch.no_grad():
        images = model.preprocess([item["image"]])
        features = model.encode_gallery(images)
        for number, kernel in enumerate(kernels):
            (one,) = model.detect(features, kernel[None], images.image_sizes, with_masks=False)
            for box, p in zip(one.pred_boxes.tensor * 2, one.scores):
                found.append((box, float(p), number))
    return sorted(found, key=lambda one: -one[1])


def test_the_best_detections_of_all_classes_are_kept(model, kernels, item, one_by_one) -> None:
    none = torch.zeros(3, 0)
    detector = ClassRCNN(
        detector=model,
        kernels=kernels,
        descriptors=none,
        class_ids=(5, 0, 9),
        detections_per_image=7,
    ).eval()
    found = detector([item])[0]["instances"]
    assert found.image_size == (192, 256) and len(found) == 7
    expected = one_by_one[:7]
    assert torch.allclose(found.scores, torch.tensor([p for _, p, _ in expected]), atol=1e-5)
    assert found.pred_classes.tolist() == [(5, 0, 9)[number] for _, _, number in expected]
    boxes = torch.stack([box for box, _, _ in expected])
    assert torch.allclose(found.pred_boxes.tensor, boxes, atol=1e-2)


@pytest.mark.parametrize("distance", [0.0, 0.3])
def test_gamma_weighs_by_the_similarity(model, kernels, item, one_by_one, distance) -> None:
    width = model.correlation_head.correlation["fused"].in_channels
    generator = torch.Generator().manual_seed(2)
    descriptors = torch.nn.functional.normalize(torch.rand(3, width, generator=generator), dim=1)
    centre = distance * torch.rand(width, generator=generator) / width**0.5
    detector = ClassRCNN(
        detector=model,
        kernels=kernels,
        descriptors=descriptors,
        # Without one, the centre is 0.
        centre=centre if distance else None,
        gamma=2.0,
    ).eval()
    found = detector([item])[0]["instances"]
    with torch.no_grad():
        features = model.encode_gallery(model.preprocess([item["image"]]))
        shown = describe_boxes(model, features, found.pred_boxes.tensor / 2)
    own = descriptors[found.pred_classes]
    expected = torch.nn.functional.cosine_similarity(shown - centre, own).clamp(0, 1)
    assert torch.allclose(found.similarities, expected, atol=1e-3)
    products = found.probabilities * found.similarities**2
    # The cube root of three factors: on the scale of one of them.
    assert torch.allclose(found.scores**3, products, atol=1e-5)
    assert torch.all(found.scores[:-1] >= found.scores[1:])
    assert len(found) == len(one_by_one)


def test_a_descriptor_is_the_mean_of_the_features_in_the_box(model, item) -> None:
    with torch.no_grad():
        features = model.encode_gallery(model.preprocess([item["image"]]))
        (whole,) = describe_boxes(model, features, torch.tensor([[0.0, 0.0, 128.0, 96.0]]))
    (maps,) = features.values()
    mean = maps[0].mean(dim=(1, 2))
    # RoIAlign samples between the cells' centres and repeats the outer ones: nearly the mean.
    assert torch.nn.functional.cosine_similarity(whole, mean, dim=0) > 0.98


def test_what_does_not_fit_is_refused(model, kernels, item) -> None:
    with pytest.raises(ValueError, match="3 kernels, 2 descriptors"):
        ClassRCNN(detector=model, kernels=kernels, descriptors=torch.zeros(2, 0))
    with pytest.raises(ValueError, match="gamma is 1"):
        ClassRCNN(detector=model, kernels=kernels, descriptors=torch.zeros(3, 0), gamma=1)
    with pytest.raises(ValueError, match=r"a centre of shape \(4,\) with descriptors of width 5"):
        ClassRCNN(
            detector=model, kernels=kernels, descriptors=torch.zeros(3, 5), centre=torch.zeros(4)
        )
    detector = ClassRCNN(detector=model, kernels=kernels, descriptors=torch.zeros(3, 0))
    detector.train()
    with pytest.raises(RuntimeError, match="eval"):
        detector([item])
    model.eval()
