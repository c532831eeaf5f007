"""Class kernels are means over shots; γ is chosen where it helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from spil_d2 import get_cfg
from spil_d2.data.pair_mapper import read_crops
from spil_d2.engine.few_shot.detection import _rescored
from spil_d2.engine.few_shot.kernels import class_kernels
from spil_d2.engine.localizer import LocalizerSettings
from spil_d2.structures import Query, Reference

from .conftest import INSTANT, SIDE


@pytest.fixture(scope="module")
def cfg():
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.MODEL.BF16 = "off"
    cfg.freeze()
    return cfg


@pytest.fixture(scope="module")
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


@pytest.fixture(scope="module")
def shots(datasets_root) -> list[Query]:
    """Two of class 7, one of class 2."""
    folder = datasets_root / "few_shot" / "mini" / "train"
    places = [(1, 7), (2, 2), (3, 7)]
    return [
        Query(
            number,
            (Reference(str(folder / f"{number:06d}.png"), SIDE, SIDE, (10.0, 20.0, 60.0, 90.0)),),
            category_id=category,
        )
        for number, category in places
    ]


def one_kernel(model, settings: LocalizerSettings, shot: Query) -> torch.Tensor:
    place = (shot.primary.file_name, shot.primary.box)
    crops, boxes = read_crops([place], settings.crop, settings.image_format)
    with torch.no_grad():
        return model.encode_query(crops, boxes)[0]


def test_a_class_has_the_mean_of_its_shots(cfg, model, shots) -> None:
    settings = LocalizerSettings.from_config(cfg)
    found = class_kernels(model, settings, shots[:2], extra=shots[2:])
    assert found.categories == (2, 7) and found.descriptors.shape == (2, 0)
    single = [one_kernel(model, settings, shot) for shot in shots]
    assert torch.allclose(found.kernels[0], single[1], atol=1e-5)
    assert torch.allclose(found.kernels[1], (single[0] + single[2]) / 2, atol=1e-5)


def test_descriptors_are_of_unit_length_and_of_their_class(cfg, model, shots) -> None:
    settings = LocalizerSettings.from_config(cfg)
    found = class_kernels(model, settings, shots, with_descriptors=True)
    assert torch.allclose(found.descriptors.norm(dim=1), torch.ones(2), atol=1e-5)
    own = class_kernels(model, settings, shots[:1], with_descriptors=True).descriptors[0]
    assert found.descriptors[1] @ own > found.descriptors[0] @ own


def test_a_query_without_a_class_is_refused(cfg, model, shots) -> None:
    settings = LocalizerSettings.from_config(cfg)
    with pytest.raises(ValueError, match="query 9 has no category_id"):
        class_kernels(model, settings, [Query(9, shots[0].references)])
    with pytest.raises(ValueError, match="no shots"):
        class_kernels(model, settings, [])


def test_gamma_orders_and_cuts_anew() -> None:
    found = Instances((10, 10), pred_boxes=Boxes(torch.rand(4, 4)))
    p, s = np.array([0.9, 0.8, 0.5, 0.2]), np.array([0.5, 0.9, 1.0, 0.9])
    found.scores = found.probabilities = torch.tensor(p)
    found.similarities = torch.tensor(s)
    kept = _rescored(found, 2.0, 3)
    expected = sorted(p * s**2, reverse=True)[:3]
    assert np.allclose(kept.scores.numpy(), expected)
    assert np.allclose(_rescored(found, 0.0, 4).scores.numpy(), p)
