"""Pseudo masks: the principal direction without a covariance, against covariance and `eigh`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import config
from ...backbones import build_frozen_backbone
from ...data.datasets.instance_search import load_gallery
from ...modeling.coattention import CoAttention
from ...ops.coattention import CoAttentionSettings, common_direction, pseudo_mask
from ...ops.principal_direction import PrincipalDirection, location_weights
from ...utils.picture_files import read_pixels
from .comparison import compare
from .pictures import picture_folder
from .settings import BenchmarkSettings

_SET_SIZE = 6

Direction = Callable[[Sequence[Tensor]], PrincipalDirection | None]
"""Maps of a co-attention set -> what they have in common."""


@dataclass(frozen=True)
class _MaskTask:
    """A picture to be masked, and the maps of its co-attention set, the picture's own first."""

    maps: list[Tensor]
    box: tuple[float, ...]
    superpixels: np.ndarray

    def mask(
        self, direction: Callable[[Sequence[Tensor]], PrincipalDirection | None]
    ) -> np.ndarray:
        """(H, W) bool; maps and superpixels are there already, as in a stage of SPIL."""
        found = direction(self.maps)
        return pseudo_mask(
            self.maps[0], self.box, found, self.superpixels, CoAttentionSettings()
        ).mask


def coattention(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """Direction and mask of pictures whose frozen maps and superpixels are there.

    Returns:
        A row for maps of the paper's size (random, with a common direction on the objects), and
        one for the maps of each preset of `settings.config_files`. "max_abs_diff" is of the masks:
        0 or 1; "different_pixels" how many; "our_masks_per_second"; "locations" and "channels" of
        a set.
    """
    channels, cells = (256, (12, 20)) if settings.is_small else (2048, (19, 32))
    crop = (6, 6) if settings.is_small else (10, 10)
    planted = [
        _planted_task(seed, channels, cells, crop, settings.device)
        for seed in range(2 if settings.is_small else 4)
    ]
    rows = [_measure("size of the paper's res5", planted, settings)]
    with picture_folder(settings) as root:
        for path in settings.config_files:
            rows.append(_measure(path.stem, _real_tasks(root, path, settings), settings))
    return rows


def _measure(name: str, tasks: list[_MaskTask], settings: BenchmarkSettings) -> dict[str, Any]:
    measured = compare(
        name,
        lambda: [task.mask(_naive_direction) for task in tasks],
        lambda: [task.mask(lambda maps: common_direction(maps[:1], maps[1:])) for task in tasks],
        lambda one, other: float(max((a ^ b).max() for a, b in zip(one, other, strict=True))),
        settings,
    )
    return {
        **measured.row,
        "masks": len(tasks),
        "different_pixels": sum(
            int((a ^ b).sum()) for a, b in zip(measured.reference, measured.ours)
        ),
        "our_masks_per_second": len(tasks) / measured.row["our_seconds"],
        "locations": sum(one[0].numel() for one in tasks[0].maps),
        "channels": len(tasks[0].maps[0]),
    }


def _naive_direction(maps: Sequence[Tensor]) -> PrincipalDirection:
    """The (C, C) covariance of all locations, each picture of the same weight, and its `eigh`."""
    rows = torch.cat([one.flatten(1).T for one in maps])
    weights = location_weights([one[0].numel() for one in maps]).to(rows)
    mean = (weights[:, None] * rows).sum(dim=0)
    centered = rows - mean
    covariance = centered.T @ (weights[:, None] * centered)
    return PrincipalDirection(mean, torch.linalg.eigh(covariance).eigenvectors[:, -1])


def _planted_task(
    seed: int, channels: int, cells: tuple[int, int], crop: tuple[int, int], device: str
) -> _MaskTask:
    """Rectified noise, and one pattern of channels on the object of the picture and each crop."""
    rng = torch.Generator().manual_seed(seed)
    pattern = torch.rand(channels, 1, 1, generator=rng)
    maps = []
    for size in (cells, *[crop] * (_SET_SIZE - 1)):
        one = torch.randn(channels, *size, generator=rng).clamp(min=0)
        rows, columns = (slice(side // 3, 2 * side // 3) for side in size)
        one[:, rows, columns] += pattern
        maps.append(one.to(device))
    height, width = (32 * side for side in cells)
    # Superpixels of half a cell.
    labels = np.arange(height)[:, None] // 16 * (width // 16) + np.arange(width)[None] // 16
    box = (width / 3 - 16, height / 3 - 16, 2 * width / 3 + 16, 2 * height / 3 + 16)
    return _MaskTask(maps, box, labels)


def _real_tasks(root: Path, path: Path, settings: BenchmarkSettings) -> list[_MaskTask]:
    """The first picture of instances that six pictures show, with maps of a preset."""
    cfg = config.get_cfg()
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(["MODEL.DEVICE", settings.device, *settings.options])
    backbone = build_frozen_backbone(cfg, [cfg.COATTENTION.FEATURE])
    extractor = CoAttention(cfg, feature_extractor=backbone)
    shown: dict[int, list[tuple[str, list[float]]]] = defaultdict(list)
    for record in load_gallery(root, root.name):
        for annotation in record["annotations"]:
            shown[annotation["instance_id"]].append((record["file_name"], annotation["bbox"]))
    sets = [one[:_SET_SIZE] for _, one in sorted(shown.items()) if len(one) >= _SET_SIZE]
    tasks = []
    for members in sets[: 2 if settings.is_small else 16]:
        pictures = [read_pixels(name, "RGB") for name, _ in members]
        x, y, width, height = members[0][1]
        tasks.append(
            _MaskTask(
                [extractor.encode(picture)[0] for picture in pictures],
                (x, y, x + width, y + height),
                extractor.superpixels(pictures[0]),
            )
        )
    return tasks
