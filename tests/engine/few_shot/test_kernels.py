"""Class kernels are means over shots; γ is chosen where it helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from spil_d2 import get_cfg
from spil_d2.data.pair_mapper import read_crops
from spil_d2.engine.few_shot.detection import _rescored
from spil_d2.engine.few_shot.kernels import class_kernels, mean_descriptor
from spil_d2.engine.localizer import LocalizerSettings
from spil_d2.modeling.class_detector import describe_boxes
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


def one_descriptor(model, settings: LocalizerSettings, file_name: str, box) -> torch.Tensor:
    """Of a box on a square picture, by the loader of the tests themselves."""
    assert settings.image_format == "RGB"
    size = (settings.min_size, settings.min_size)
    picture = np.array(Image.open(file_name).convert("RGB").resize(size, Image.BILINEAR))
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy())
    with torch.no_grad():
        features = model.encode_gallery(model.preprocess([image]))
        box = torch.tensor([box]) * settings.min_size / SIDE
        return describe_boxes(model, features, box)[0]


def test_descriptors_are_mean_directions_from_the_centre(cfg, model, shots) -> None:
    settings = LocalizerSettings.from_config(cfg)
    places = [(shot.primary.file_name, shot.primary.box) for shot in shots]
    of_shot = [one_descriptor(model, settings, *place).numpy() for place in places]
    for centre in (torch.zeros(len(of_shot[0])), torch.from_numpy(np.mean(of_shot, axis=0)) / 2):
        found = class_kernels(model, settings, shots, centre=centre)
        assert torch.equal(found.centre, centre)
        directions = [x - centre.numpy() for x in of_shot]
        directions = [x / np.linalg.norm(x) for x in directions]
        of_class = [directions[1], directions[0] + directions[2]]
        expected = np.stack([x / np.linalg.norm(x) for x in of_class])
        assert np.allclose(found.descriptors.numpy(), expected, atol=2e-3)


def test_the_centre_is_the_mean_of_evenly_spaced_whole_pictures(cfg, model, shots) -> None:
    settings = LocalizerSettings.from_config(cfg)
    files = [shot.primary.file_name for shot in shots]
    gallery = [
        {"file_name": name, "image_id": i, "width": SIDE, "height": SIDE}
        for i, name in enumerate([files[0], files[1], files[2], files[1]])
    ]
    single = [one_descriptor(model, settings, name, (0.0, 0.0, SIDE, SIDE)) for name in files]
    two = mean_descriptor(model, settings, gallery, 2)
    assert torch.allclose(two, (single[0] + single[2]) / 2, atol=2e-3)
    every = mean_descriptor(model, settings, gallery, 9)
    assert torch.allclose(every, (single[0] + 2 * single[1] + single[2]) / 4, atol=2e-3)
    assert torch.equal(mean_descriptor(model, settings, gallery, 0), torch.zeros_like(two))
    with pytest.raises(ValueError, match="no pictures"):
        mean_descriptor(model, settings, [], 2)


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
    assert np.allclose(kept.scores.numpy() ** 3, expected)
    assert np.allclose(_rescored(found, 0.0, 4).scores.numpy(), p)
