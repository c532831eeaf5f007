"""Maps that are kept: hit and miss give the same, and all that maps depend on is in their key."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import nn

from spil_d2 import get_cfg
from spil_d2.data import gallery_loader
from spil_d2.engine.gallery_features import FeatureCacheSettings, GalleryFeatures
from spil_d2.engine.localizer import Localizer, LocalizerSettings
from spil_d2.engine.refinement import Refiner
from spil_d2.structures import SearchHit
from spil_d2.utils import array_cache

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/spil_tiny_instant_test.yaml"
NUM_PICTURES = 4
QUERIES = (7, 8)


@pytest.fixture(scope="module")
def cfg():
    one = get_cfg()
    one.merge_from_file(str(INSTANT))
    one.MODEL.BF16 = "off"
    return one


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg).eval()


@pytest.fixture
def pictures(demo_root, tmp_path) -> list[Path]:
    (tmp_path / "pictures").mkdir()
    files = sorted((demo_root / "images").glob("*.jpg"))[:NUM_PICTURES]
    return [Path(shutil.copy(one, tmp_path / "pictures")) for one in files]


@pytest.fixture
def counted(model, monkeypatch) -> list[str]:
    """A word for each picture that is decoded, and for each that goes through the backbone."""
    seen: list[str] = []
    encode, read = model.encode_gallery, gallery_loader.read_pixels

    def encode_noted(images):
        seen.append("encoded")
        return encode(images)

    def read_noted(*args):
        seen.append("decoded")
        return read(*args)

    monkeypatch.setattr(model, "encode_gallery", encode_noted)
    monkeypatch.setattr(gallery_loader, "read_pixels", read_noted)
    return seen


def detect(model, cfg, files: list[Path], features: FeatureCacheSettings, **settings) -> dict:
    """(image id, query id) -> (boxes and probabilities) (N, 5)."""
    gallery = [{"image_id": i, "file_name": str(one)} for i, one in enumerate(files)]
    settings = replace(LocalizerSettings.from_config(cfg), features=features, **settings)
    localizer = Localizer(model, gallery, [], settings)
    width = model.backbone.output_shape()["fused"].channels
    kernels = torch.rand(9, width, generator=torch.Generator().manual_seed(1))
    wanted = dict.fromkeys(range(len(files)), QUERIES)
    return {
        (image_id, query_id): torch.cat([one.pred_boxes.tensor, one.scores[:, None]], dim=1)
        for image_id, answers in localizer.detect(wanted, lambda q, i: kernels[q], "test")
        for query_id, one in answers
    }


def same(one: dict, other: dict, tolerance: float = 0.0) -> bool:
    return one.keys() == other.keys() and all(
        len(a) == len(other[k]) and float((a - other[k]).abs().max()) <= tolerance
        for k, a in one.items()
    )


def test_hit_and_miss_are_the_same_and_near_the_exact(model, cfg, pictures, counted, tmp_path):
    cache = FeatureCacheSettings(str(tmp_path / "maps"))
    exact = detect(model, cfg, pictures, FeatureCacheSettings())
    assert exact and all(len(one) for one in exact.values())
    counted.clear()
    first = detect(model, cfg, pictures, cache)
    assert sorted(counted) == ["decoded"] * NUM_PICTURES + ["encoded"] * NUM_PICTURES
    counted.clear()
    second = detect(model, cfg, pictures, cache)
    assert not counted and same(first, second)
    # The pictures are some 400 pixels wide: 1e-3 of them, and of a probability.
    for key, one in exact.items():
        difference = (one - second[key]).abs()
        assert difference[:, :4].max() < 0.4 and difference[:, 4].max() < 1e-3
    # Order and a part of the pictures do not matter.
    shown = [pictures[2], pictures[0]]
    part = detect(model, cfg, shown, cache)
    assert not counted and torch.equal(part[0, 7], first[2, 7]) and len(part) == 4


def test_single_precision_changes_nothing(model, cfg, pictures, tmp_path) -> None:
    cache = FeatureCacheSettings(str(tmp_path / "maps"), dtype="float32")
    exact = detect(model, cfg, pictures, FeatureCacheSettings())
    for _ in range(2):
        assert same(exact, detect(model, cfg, pictures, cache), 1e-3)
    size = sum(one.stat().st_size for one in (tmp_path / "maps").iterdir())
    half = FeatureCacheSettings(str(tmp_path / "half"))
    detect(model, cfg, pictures, half)
    assert size == pytest.approx(
        2 * sum(one.stat().st_size for one in (tmp_path / "half").iterdir()), rel=0.02
    )


def test_what_maps_depend_on_is_in_their_key(model, cfg, pictures, counted, tmp_path) -> None:
    cache = FeatureCacheSettings(str(tmp_path / "maps"))

    def encoded(**changes) -> int:
        counted.clear()
        detect(model, cfg, pictures, changes.pop("features", cache), **changes)
        return counted.count("encoded")

    assert [encoded(), encoded()] == [NUM_PICTURES, 0]
    # What follows the backbone may be trained.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone."):
                parameter.add_(0.01)
    assert encoded() == 0
    assert encoded(min_size=112) == encoded(max_size=96) == NUM_PICTURES
    assert encoded(image_format="BGR") == NUM_PICTURES
    assert encoded(features=replace(cache, dtype="float32")) == NUM_PICTURES
    model.bf16 = True
    assert encoded() == NUM_PICTURES
    model.bf16 = False
    mean = model.pixel_mean.clone()
    model.pixel_mean += 1
    assert encoded() == NUM_PICTURES
    model.pixel_mean.copy_(mean)
    # The same weights in another structure.
    features = GalleryFeatures(model, cache, {})
    scales, keys = model.backbone.scales, set()
    for order in (scales[::-1], scales):
        model.backbone.scales = order
        features.look_at_weights()
        keys.add(features.key(pictures[0]))
    assert len(keys) == 2
    # A picture that changes.
    status = pictures[1].stat()
    os.utime(pictures[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert encoded() == 1
    shutil.copy(pictures[0], pictures[2])
    assert encoded() == 1
    with torch.no_grad():
        next(iter(model.backbone.parameters()))[0] += 0.01
    assert [encoded(), encoded()] == [NUM_PICTURES, 0]


def test_damage_and_a_limit_below_the_need_change_no_box(
    model, cfg, pictures, counted, tmp_path, caplog
) -> None:
    folder = tmp_path / "maps"
    cache = FeatureCacheSettings(str(folder))
    first = detect(model, cfg, pictures, cache)
    files = sorted(folder.iterdir())
    size = files[0].stat().st_size
    os.truncate(files[1], 1000)
    counted.clear()
    assert same(first, detect(model, cfg, pictures, cache))
    assert counted.count("encoded") == 1 and "made again" in caplog.text
    counted.clear()
    assert same(first, detect(model, cfg, pictures, cache)) and not counted
    # Two of four: entries that were there when the pass began go before they are read.
    for one in folder.iterdir():
        one.unlink()
    detect(model, cfg, pictures[2:], cache)
    small = replace(cache, max_gb=2.1 * size / 1e9)
    for _ in range(2):
        assert same(first, detect(model, cfg, pictures, small))
        assert len(list(folder.iterdir())) == 2


def test_a_full_disk_changes_no_box(model, cfg, pictures, tmp_path, monkeypatch, caplog) -> None:
    first = detect(model, cfg, pictures, FeatureCacheSettings(str(tmp_path / "maps")))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(array_cache.os, "replace", full)
    found = detect(model, cfg, pictures, FeatureCacheSettings(str(tmp_path / "full")))
    assert same(first, found)
    said = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(said) == 1 and str(tmp_path / "full") in said[0].getMessage()


class Huge(nn.Module):
    """In place of QueryRCNN: maps beyond half precision."""

    levels = ("a",)
    bf16 = frozen_backbone = False
    pixel_mean = pixel_std = torch.zeros(3)
    device = torch.device("cpu")

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.backbone = nn.Conv2d(3, 2, 1)

    def preprocess(self, images: list[torch.Tensor]) -> ImageList:
        return ImageList.from_tensors(images)

    def encode_gallery(self, images: ImageList) -> dict[str, torch.Tensor]:
        return {"a": torch.full((1, 2, 3, 4), self.value)}


def test_maps_that_do_not_fit_are_not_kept_and_stay_exact(tmp_path, caplog) -> None:
    for value, dtype, is_kept in [(1e6, "float16", 0), (1e6, "float32", 1), (1e4, "float16", 1)]:
        folder = tmp_path / f"{value}{dtype}"
        features = GalleryFeatures(Huge(value), FeatureCacheSettings(str(folder), dtype=dtype), {})
        features.look_at_weights()
        item = {"image": torch.zeros(3, 6, 8), "image_id": 5, "height": 6, "width": 8}
        for _ in range(2):
            maps, sizes = features.encode({**item, "key": features.key(__file__)})
            assert sizes == [(6, 8)] and torch.equal(maps["a"], torch.full((1, 2, 3, 4), value))
        assert len(list(folder.glob("*"))) == is_kept
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(said) == 1 and "picture 5" in said[0] and "float32" in said[0]


def test_refined_hits_are_the_same_and_faster(
    model, cfg, pictures, counted, tmp_path, demo_queries
) -> None:
    hits = [
        SearchHit(i + 1, one.name, i, (20.0, 20.0, 120.0, 120.0), 0.9 - 0.3 * i, 0.5)
        for i, one in enumerate(pictures)
    ]
    shown = [(np.full((90, 120, 3), 99, np.uint8), [(10.0, 10.0, 60.0, 60.0)])]

    def refined(features: FeatureCacheSettings) -> list[SearchHit]:
        counted.clear()
        refiner = Refiner(model, cfg, features)
        return list(refiner.refine(shown, hits, lambda i: pictures[i]))

    exact = refined(FeatureCacheSettings())
    assert counted == ["encoded"] * NUM_PICTURES
    cache = FeatureCacheSettings(str(tmp_path / "maps"))
    first = refined(cache)
    assert counted == ["encoded"] * NUM_PICTURES
    assert refined(cache) == first and not counted
    assert [one.score for one in first] == pytest.approx([one.score for one in exact], abs=1e-3)
    # Localizers read pictures in another way.
    detect(model, cfg, pictures, cache)
    assert counted.count("encoded") == NUM_PICTURES
    pictures[3].unlink()
    assert refined(cache) == first[:3]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("DTYPE", "int8", "'int8'.*float16, float32"), ("MAX_GB", 0.0, "MAX_GB is 0.0.*above 0")],
)
def test_settings_name_the_key(cfg, name, value, message) -> None:
    cfg = cfg.clone()
    cfg.CACHE.FEATURES[name] = value
    with pytest.raises(ValueError, match=message):
        LocalizerSettings.from_config(cfg)
