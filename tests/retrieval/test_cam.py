"""CAM's boxes against components by scipy."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from scipy.ndimage import label
from torch import Tensor, nn

from spil_d2.retrieval.engines import CAM

CHANNELS = 6


class Patches(Backbone):
    """A random but fixed rectified projection of 16-pixel patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, CHANNELS, 16, 16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": self.layer(x).relu()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=CHANNELS, stride=16)}


def picture(seed: int) -> np.ndarray:
    """(96, 128, 3) of 16-pixel tiles, most of them black: a map of it has 6 x 8 cells."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    tiles[rng.random((6, 8)) < 0.7] = 0
    return tiles.repeat(16, axis=0).repeat(16, axis=1)


def component_boxes(activation: np.ndarray) -> list[list[int]]:
    """Of the largest component at or above each part of the maximum, in cells of `activation`."""
    boxes = []
    for threshold in (0.01, 0.1, 0.2, 0.3, 0.4):
        components, _ = label(activation >= threshold * activation.max(), np.ones((3, 3)))
        largest = 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
        ys, xs = np.nonzero(components == largest)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    return boxes


def test_the_box_is_the_component_that_looks_most_like_the_query() -> None:
    backbone = Patches()
    torch.manual_seed(1)
    weight = torch.randn(9, CHANNELS)
    # Likely are the classes that black tiles speak against: else every component is the picture.
    black = torch.full((1, 3, 16, 16), -2.1)
    bias = -3 * weight @ backbone(black)["map"].detach().flatten()
    engine = CAM(
        backbone=backbone,
        descriptor_layers=["map"],
        poolings=["mean"],
        longer_side=128,
        weight=weight,
        bias=bias,
        num_classes=4,
        num_localizing_classes=2,
    )
    query_box = np.array([[16, 16, 96, 80]], np.float32)
    different = 0
    for seed in range(6):
        (cue,) = engine.cues(picture(seed + 50), query_box)
        image = picture(seed)
        feature_map = engine.backbone(engine._prepare(image))["map"][0].detach()
        maps = []
        for c in cue.classes.tolist():
            one = sum(engine.weight[c, k] * feature_map[k] for k in range(CHANNELS))
            maps.append((one - one.min()) / (one.max() - one.min()))
        mean = (sum(maps) / len(maps))[None, None]
        fine = nn.functional.interpolate(mean, size=(48, 64), mode="bilinear")[0, 0].numpy()
        # 8 x as fine as 6 x 8 cells, so a cell is 2 pixels.
        boxes = 2 * np.array(component_boxes(fine), np.float32)
        cosines = engine.embed(image, boxes) @ cue.embedding
        np.testing.assert_allclose(engine.localize(image, [cue])[0], boxes[cosines.argmax()])
        different += len({tuple(box) for box in boxes.tolist()}) > 1
    assert different > 2
