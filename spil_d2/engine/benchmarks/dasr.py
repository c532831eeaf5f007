"""DASR's salient regions: relevance of all peaks together, against one backward a peak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torchvision.ops import box_iou

from ... import config
from ...data.datasets.instance_search import load_gallery
from ...retrieval import DASR, build_search_engine
from ...retrieval.engines.dasr import INPUT, PeakResponse
from ...retrieval.search import read_rgb
from .comparison import Stopwatch, compare
from .pictures import picture_folder
from .settings import BenchmarkSettings

_SMALL = ["MODEL.EFFICIENTNET.VARIANT", "lite0", "SEARCH.LONGER_SIDE", 160]
_TIMED, _JUDGED = 8, 200


def dasr(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """From the response of pictures to the boxes of their peaks, forward passes left out.

    Returns:
        For each preset a row for relevance that goes to the pixels, and one for relevance that
        stops at the preset's SEARCH.DASR.STOP_AT. "max_abs_diff" is of the boxes, in pixels;
        "mean_iou" is with the boxes of relevance that goes to the pixels, over "judged" pictures;
        "whole_ratio" has the forward passes in both ways.
    """
    timed, judged = (2, 4) if settings.is_small else (_TIMED, _JUDGED)
    rows = []
    with picture_folder(settings) as root:
        names = [record["file_name"] for record in load_gallery(root, root.name)]
        step = max(1, len(names) // judged)
        names = names[::step][:judged]
        for path in settings.config_files:
            full, fast = _engines(path, settings)
            some = names[:: max(1, len(names) // timed)][:timed]
            rows += _measure(path.stem, full, fast, some, names, settings)
    return rows


def _engines(path: Path, settings: BenchmarkSettings) -> tuple[DASR, DASR]:
    """The engine of a preset as published, and as the preset has it; one backbone."""
    cfg = config.get_cfg()
    cfg.merge_from_file(str(path))
    small = _SMALL if settings.is_small else []
    cfg.merge_from_list([*small, "MODEL.DEVICE", settings.device, *settings.options])
    fast = build_search_engine(cfg)
    assert isinstance(fast, DASR)
    full = copy(fast)
    full.stop_at, full.detail_layer = INPUT, ""
    return full, fast


def _measure(
    name: str,
    full: DASR,
    fast: DASR,
    timed: list[str],
    judged: list[str],
    settings: BenchmarkSettings,
) -> list[dict[str, Any]]:
    pictures = [read_rgb(one) for one in timed]
    found = [full.respond(picture) for picture in pictures]
    forward = Stopwatch(torch.device(settings.device))
    for _ in range(settings.repeats):
        forward.time(lambda: [full.respond(picture) for picture in pictures])
    forward_seconds = median(forward.counted)
    naive = [_naive_response(full, one) for one in found]
    rows = []
    for engine in (full, fast):
        measured = compare(
            f"{name}, relevance to {'the pixels' if engine is full else engine.stop_at}",
            lambda: torch.cat([_one_by_one(full, one) for one in naive]),
            lambda engine=engine: torch.cat([engine.trace(one) for one in found]),
            lambda one, other: float((one - other).abs().max()),
            settings,
        )
        seconds = measured.row["reference_seconds"], measured.row["our_seconds"]
        rows.append(
            {
                **measured.row,
                "pictures": len(pictures),
                "peaks": len(measured.ours),
                "forward_seconds": forward_seconds,
                "whole_ratio": (seconds[0] + forward_seconds) / (seconds[1] + forward_seconds),
            }
        )
    ious = torch.cat([_ious(full, fast, read_rgb(one)) for one in judged])
    rows[1] |= {"mean_iou": float(ious.mean()), "judged": len(judged)}
    return rows


class _naive_rule(TorchFunctionMode):  # noqa: N801 (used as a context manager)
    """Convolutions called inside hand back relevance, by the rule as it is written."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is not torch.nn.functional.conv2d:
            return func(*args, **(kwargs or {}))
        return _NaiveConv2d.apply(*args)


class _NaiveConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any):
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        return torch.nn.functional.conv2d(input, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        shifted, positive = input - input.min(), weight.clamp(min=0)
        total = torch.nn.functional.conv2d(shifted, positive, None, *ctx.geometry)
        parts = torch.where(total < 1e-10, 0, relevance / total)
        back = torch.nn.grad.conv2d_input(input.shape, positive, parts, *ctx.geometry)
        return shifted * back, *[None] * (2 + len(ctx.geometry))


def _naive_response(engine: DASR, found: PeakResponse) -> PeakResponse:
    """The same picture and peaks, with a graph for the naive rule."""
    pixels = found.pixels.detach().clone().requires_grad_(True)
    with torch.enable_grad(), _naive_rule():
        features = engine.backbone(pixels)
        response = features[engine.response_layer].mean(dim=1)
    return replace(found, pixels=pixels, features=features, response=response)


def _one_by_one(engine: DASR, found: PeakResponse) -> Tensor:
    """Boxes (P, 4): for each peak one backward pass to the pixels."""
    gradients = [
        torch.autograd.grad(found.response[0, row, column], found.pixels, retain_graph=True)[0]
        for row, column in found.peaks.tolist()
    ]
    return engine.boxes(torch.cat(gradients).sum(dim=1).relu(), found.size)


def _ious(full: DASR, fast: DASR, picture: np.ndarray) -> Tensor:
    """(P,) IoU of each peak's two boxes."""
    found = full.respond(picture)
    return box_iou(full.trace(found), fast.trace(found)).diagonal()
