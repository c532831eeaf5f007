"""Localizing many queries on one gallery image: encoded once and batched, against full passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList, Instances
from torch import Tensor

from ... import config
from ...data.crops import build_query_geometry
from ...modeling import QueryRCNN
from ...utils.checkpoints import SafeCheckpointer
from ..presets import resolve_config
from .comparison import compare
from .settings import BenchmarkSettings

_GALLERY_ASPECT = 3 / 4
_SMALL = [
    *("MODEL.EFFICIENTNET.VARIANT", "lite0", "MODEL.BF16", "off"),
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128, "MODEL.QUERY.CROP_SIZE", 64),
]


def multi_query(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """Q queries on one picture that is encoded once, and the heads batched; against Q full passes.

    Queries are encoded once for both: a search keeps their kernels. Weights are MODEL.WEIGHTS of
    `settings.options`, else random.

    Returns:
        A row for each preset of `settings.config_files`. Its "max_abs_diff" is of boxes of the
        same query and rank, in pixels; "max_probability_diff" likewise. "same_counts" says whether
        both ways find as many boxes of each query, "num_boxes" how many all together.
    """
    return [_measure(path, settings) for path in settings.config_files]


def _measure(path: Path, settings: BenchmarkSettings) -> dict[str, Any]:
    cfg = config.get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.WEIGHTS = ""
    small = _SMALL if settings.is_small else []
    cfg.merge_from_list([*small, "MODEL.DEVICE", settings.device, *settings.options])
    resolve_config(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    assert isinstance(model, QueryRCNN)
    if cfg.MODEL.WEIGHTS:
        SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    image, crops, boxes = _inputs(cfg, settings.num_queries)
    with torch.no_grad():
        # One by one: whole pictures of a batch are padded to the largest.
        kernels = torch.cat([model.encode_query([c], b[None]) for c, b in zip(crops, boxes)])
        images = model.preprocess([image])
        measured = compare(
            path.stem,
            lambda: _separate(model, images, kernels),
            lambda: _batched(model, images, kernels),
            _box_difference,
            settings,
        )
    separate, batched = measured.reference, measured.ours
    return {
        **measured.row,
        "num_queries": settings.num_queries,
        "bf16": cfg.MODEL.BF16,
        "num_boxes": sum(map(len, batched)),
        "same_counts": [len(one) for one in separate] == [len(one) for one in batched],
        "max_probability_diff": _largest(
            [(one.scores, other.scores) for one, other in zip(separate, batched)]
        ),
    }


def _batched(model: QueryRCNN, images: ImageList, kernels: Tensor) -> list[Instances]:
    features = model.encode_gallery(images)
    return model.detect(features, kernels, images.image_sizes, with_masks=False)


def _separate(model: QueryRCNN, images: ImageList, kernels: Tensor) -> list[Instances]:
    return [_batched(model, images, one[None])[0] for one in kernels]


def _box_difference(separate: list[Instances], batched: list[Instances]) -> float:
    pairs = zip(separate, batched, strict=True)
    return _largest([(one.pred_boxes.tensor, other.pred_boxes.tensor) for one, other in pairs])


def _largest(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The largest difference of rows of the same rank, as many as both of a pair have."""
    largest = 0.0
    for one, other in pairs:
        count = min(len(one), len(other))
        if count:
            largest = max(largest, float((one[:count] - other[:count]).abs().max()))
    return largest


def _inputs(cfg, num_queries: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """A gallery image of the preset's test size, and queries as the preset cuts them."""
    rng = np.random.default_rng(0)
    width = min(cfg.INPUT.MAX_SIZE_TEST, round(cfg.INPUT.MIN_SIZE_TEST / _GALLERY_ASPECT))
    picture = _picture(rng, round(width * _GALLERY_ASPECT), width)
    geometry = build_query_geometry(cfg)
    crops, boxes = [], []
    for _ in range(num_queries):
        source = _picture(rng, 240, 320)
        x, y = rng.uniform(0, 160), rng.uniform(0, 120)
        side = rng.uniform(40, 120, 2)
        crop, inside = geometry.crop(source, (x, y, x + side[0], y + side[1]))
        crops.append(_to_tensor(crop))
        boxes.append(torch.from_numpy(inside))
    return _to_tensor(picture), crops, torch.stack(boxes)


def _picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: rectangles of one colour each, on noise."""
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for _ in range(12):
        x, y = rng.integers(0, width - 16), rng.integers(0, height - 16)
        w, h = rng.integers(16, width // 2), rng.integers(16, height // 2)
        picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return picture


def _to_tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
