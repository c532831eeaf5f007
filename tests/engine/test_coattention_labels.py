"""Masks of a whole pool against the steps done one by one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from torch import nn

from spil_d2 import get_cfg
from spil_d2.data.crops import CropGeometry
from spil_d2.engine.coattention_labels import CoAttentionLabeler
from spil_d2.engine.self_training_build import build_labeler
from spil_d2.modeling.coattention import CoAttention
from spil_d2.ops.coattention import CoAttentionSettings
from spil_d2.ops.superpixels import Superpixels
from spil_d2.structures import Candidate, Query, QueryPool, Reference, SamplePool, Target

HEIGHT, WIDTH, RADIUS = 128, 192, 24
CENTRES = ((50, 60), (120, 70), (70, 40), (140, 60), (60, 80), (100, 50), (80, 70))
NUM_CONFIDENT = 4
CROP = CropGeometry(size=96, context=16)
B = 4


class BlockColours(nn.Module):
    """Mean colours of 16 x 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Conv2d(3, 3, 16, stride=16, groups=3, bias=False)
        nn.init.constant_(self.pool.weight, 1 / 256)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"c4": self.pool(x)}


def _box(number: int) -> tuple[float, float, float, float]:
    x, y = CENTRES[number]
    return (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)


def _picture(number: int) -> np.ndarray:
    """A reddish disc on ground whose colour differs from picture to picture, RGB."""
    rng = np.random.default_rng(number)
    image = rng.integers(60, 90, (HEIGHT, WIDTH, 3)) + rng.integers(0, 40, 3)
    disc = cv2.circle(np.zeros((HEIGHT, WIDTH), np.uint8), CENTRES[number], RADIUS, 1, -1) > 0
    image[disc] = rng.integers(150, 190, (int(disc.sum()), 3)) - [0, 20, 120]
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def coattention() -> CoAttention:
    return CoAttention(
        feature_extractor=BlockColours(),
        feature="c4",
        settings=CoAttentionSettings(),
        superpixels=Superpixels(),
        pixel_mean=[100.0] * 3,
        pixel_std=[50.0] * 3,
        min_size=0,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Picture 0 is the query's, the others its candidates 0, 1, ..."""
    folder = tmp_path_factory.mktemp("pictures")
    names = [str(Path(folder) / f"{number}.png") for number in range(len(CENTRES))]
    for number, name in enumerate(names):
        cv2.imwrite(name, _picture(number)[:, :, ::-1])
    return names


@pytest.fixture
def label(coattention, files):
    """(keywords of the labeler) -> the labelled pool; candidates 1 to 4 are confident."""
    queries = [Query(1, (Reference(files[0], WIDTH, HEIGHT, _box(0)),))]
    gallery = {number: {"file_name": name} for number, name in enumerate(files)}
    candidates = tuple(
        Candidate(i, _box(i), Target(_box(i), 0.9) if 1 < i <= 1 + NUM_CONFIDENT else None)
        for i in range(1, len(files))
    )
    pool = SamplePool(1, (QueryPool(1, Target(_box(0), 1.0), candidates),))

    def run(**keywords) -> QueryPool:
        labeler = CoAttentionLabeler(coattention, gallery, queries, B, crop=CROP, **keywords)
        return labeler.label(pool).queries[0]

    return run


def _decoded(target: Target) -> np.ndarray:
    assert target.mask is not None
    return mask_util.decode(target.mask).astype(bool)


@pytest.mark.parametrize(
    ("v_policy", "sets"),
    [
        # Pictures: 0 the query's, 2 to 5 confident; B - 1 = 3 crops of the best others.
        ("two_views", {0: (2, 3, 4), 2: (0, 3, 4), 4: (0, 2, 3), 5: (0, 2, 3)}),
        ("confident_only", {0: (2, 3, 4), 3: (0, 2, 4)}),
    ],
)
def test_pair_is_the_per_iteration_form_on_the_best_others(
    label, coattention, v_policy: str, sets: dict[int, tuple[int, ...]]
) -> None:
    labelled = label(kind="pair", v_policy=v_policy)
    for number, others in sets.items():
        crops = [CROP.crop(_picture(i), _box(i))[0] for i in others]
        expected = coattention.segment(_picture(number), _box(number), crops)
        target = labelled.reference if number == 0 else labelled.candidates[number - 1].target
        assert target is not None and not expected.is_fallback
        # The labeler keeps maps in half precision.
        assert (_decoded(target) != expected.mask).mean() < 0.01


def test_pool_has_one_direction_on_all_confident_pictures(label, coattention) -> None:
    labelled = label()
    maps = [coattention.encode(_picture(i)) for i in (0, 2, 3, 4, 5)]
    principals = coattention.fit(maps[:1], maps[1:])
    for number, one in zip((0, 2, 3, 4, 5), maps):
        labels = coattention.superpixels(_picture(number))
        expected = coattention.apply(one, _box(number), principals, labels)
        target = labelled.reference if number == 0 else labelled.candidates[number - 1].target
        assert target is not None
        assert (_decoded(target) != expected.mask).mean() < 0.01


def test_only_targets_are_labelled_and_always_alike(label) -> None:
    for kind in ("pool", "pair"):
        labelled = label(kind=kind)
        assert labelled == label(kind=kind)
        assert [one.target is not None for one in labelled.candidates] == [False] + [True] * 4 + [
            False
        ]
        assert labelled.candidates[1].target.weight == 0.9


def test_the_finer_map_must_be_finer() -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.COATTENTION.ENABLED = "cpu", True
    cfg.SEARCH.BACKBONE = "build_efficientnet_lite_backbone"
    cfg.MODEL.EFFICIENTNET.VARIANT, cfg.MODEL.EFFICIENTNET.PRETRAINED = "lite0", False
    cfg.COATTENTION.FEATURE, cfg.COATTENTION.FINE_FEATURE = "c5", "head"
    with pytest.raises(ValueError, match="FINE_FEATURE is 'head' of stride 32.*'c5' of stride 32"):
        build_labeler(cfg, [], [])


def test_an_unknown_set_is_an_error_that_names_the_known_ones(label) -> None:
    with pytest.raises(ValueError, match="COATTENTION.SET is 'all'.*pool.*pair"):
        label(kind="all")
