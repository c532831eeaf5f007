"""Localizing many queries on one gallery image: encoded once and batched, against full passes."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import ImageList, Instances
from torch import Tensor

from ... import config
from ...data.crops import build_query_geometry
from ...modeling import QueryRCNN
from ..presets import resolve_config
from .settings import BenchmarkSettings

logger = logging.getLogger(__name__)

_GALLERY_ASPECT = 3 / 4


def multi_query(settings: BenchmarkSettings) -> dict:
    """The ratio of the two ways, and whether they find the same boxes, for each preset.

    Both ways run on the same generated picture and queries, in turn within one process. Queries
    are encoded once for both: a search keeps their kernels. Weights are MODEL.WEIGHTS of
    `settings.options`, else random.

    Returns:
        {"device", "num_queries", "presets": name -> result of `compare`}.
    """
    results = {}
    for path in settings.config_files:
        cfg = config.get_cfg()
        cfg.merge_from_file(str(path))
        cfg.MODEL.WEIGHTS = ""
        cfg.merge_from_list(["MODEL.DEVICE", settings.device, *settings.options])
        resolve_config(cfg)
        torch.manual_seed(0)
        model = build_model(cfg).eval()
        if cfg.MODEL.WEIGHTS:
            DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        results[path.stem] = compare(model, *_inputs(cfg, settings.num_queries), settings.repeats)
        logger.info("%s: %s", path.stem, results[path.stem])
    return {"device": settings.device, "num_queries": settings.num_queries, "presets": results}


def compare(
    model: QueryRCNN, image: Tensor, crops: list[Tensor], boxes: Tensor, repeats: int
) -> dict[str, Any]:
    """Measure one model.

    Args:
        model: in evaluation mode.
        image: (3, H, W) the gallery image.
        crops, boxes: of Q queries, as `QueryRCNN.encode_query` takes them.
        repeats: of each way; the medians count.

    Returns:
        {"batched_s", "separate_s": seconds for all queries; "ratio": of these;
        "num_boxes": of the batched way; "same_counts": whether both find as many of each query;
        "max_box_difference" in pixels and "max_probability_difference" between the ways}.
    """
    with torch.no_grad():
        # One by one: whole pictures of a batch are padded to the largest.
        kernels = torch.cat([model.encode_query([c], b[None]) for c, b in zip(crops, boxes)])
        images = model.preprocess([image])
        ways: list[Callable[[], list[Instances]]] = [
            lambda: _batched(model, images, kernels),
            lambda: _separate(model, images, kernels),
        ]
        batched, separate = (way() for way in ways)
        times: list[list[float]] = [[], []]
        for _ in range(repeats):
            for way, taken in zip(ways, times):
                taken.append(_seconds(way, model.device))
    medians = [statistics.median(taken) for taken in times]
    return {
        "batched_s": medians[0],
        "separate_s": medians[1],
        "ratio": medians[1] / medians[0],
        "num_boxes": sum(len(one) for one in batched),
        **_differences(batched, separate),
    }


def _batched(model: QueryRCNN, images: ImageList, kernels: Tensor) -> list[Instances]:
    features = model.encode_gallery(images)
    return model.detect(features, kernels, images.image_sizes, with_masks=False)


def _separate(model: QueryRCNN, images: ImageList, kernels: Tensor) -> list[Instances]:
    return [_batched(model, images, one[None])[0] for one in kernels]


def _seconds(way: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _differences(first: list[Instances], second: list[Instances]) -> dict[str, Any]:
    """Of boxes and probabilities of the same rank, as many as both ways have."""
    boxes = probabilities = 0.0
    for one, other in zip(first, second, strict=True):
        count = min(len(one), len(other))
        if count:
            moved = one.pred_boxes.tensor[:count] - other.pred_boxes.tensor[:count]
            boxes = max(boxes, float(moved.abs().max()))
            changed = one.scores[:count] - other.scores[:count]
            probabilities = max(probabilities, float(changed.abs().max()))
    return {
        "same_counts": all(len(one) == len(other) for one, other in zip(first, second)),
        "max_box_difference": boxes,
        "max_probability_difference": probabilities,
    }


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
