"""Localizing in a shortlist again, its maps being kept on disk, against the first time."""

from __future__ import annotations

import functools
import itertools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from ... import config
from ...data.datasets.instance_search import load_gallery
from ...data.gallery_loader import GalleryDataset
from ...data.pair_mapper import read_crops
from ...modeling import QueryRCNN
from ...utils.checkpoints import SafeCheckpointer
from ..gallery_features import FeatureCacheSettings
from ..localizer import Localizer, LocalizerSettings
from ..presets import resolve_config
from .comparison import Stopwatch, compare
from .pictures import picture_folder
from .settings import BenchmarkSettings

_SMALL = [
    *("MODEL.EFFICIENTNET.VARIANT", "lite0", "MODEL.BF16", "off"),
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128, "MODEL.QUERY.CROP_SIZE", 64),
]
_BYTES_A_GB = 10**9

Found = dict[int, Instances]
"""Image id -> boxes and probabilities."""


def cache(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """One query in a shortlist whose maps are kept, against the pass that computes and keeps them.

    Weights are MODEL.WEIGHTS of `settings.options`, else random beside the backbone's own.

    Returns:
        A row for each preset of `settings.config_files`. Its "max_abs_diff" is of probabilities and
        of boxes relative to the picture's size, same rank. "uncached_seconds" is a pass that keeps
        and rounds nothing, from whose best boxes "moved_by_rounding" of "pictures" differ by more
        than 1e-3. "detect_seconds" is detection alone, on maps in memory: what no cache can save.
        "bytes_a_picture" are on disk. Where a limit allows half of them, "half_files" are left
        after two passes, and "half_diff" is as "max_abs_diff".
    """
    with picture_folder(settings) as root:
        gallery = load_gallery(root, root.name)
        return [_measure(path, gallery, settings) for path in settings.config_files]


@dataclass(frozen=True)
class _Shortlist:
    """Pictures that one query looks at, with a model."""

    model: QueryRCNN
    settings: LocalizerSettings
    gallery: list[dict]
    kernel: torch.Tensor

    def detect(self, features: FeatureCacheSettings) -> Found:
        localizer = Localizer(
            self.model, self.gallery, [], replace(self.settings, features=features)
        )
        wanted = {int(one["image_id"]): [0] for one in self.gallery}
        found = localizer.detect(wanted, lambda query_id, image_id: self.kernel, "shortlist")
        return {image_id: one for image_id, ((_, one),) in found}

    def differences(self, one: Found, other: Found, count: int | None = None) -> list[float]:
        """Of each picture the largest, rank by rank, of probabilities and of boxes relative to it.

        Of the first `count` boxes; 1 where one has more of them than the other.
        """
        largest = []
        for record in self.gallery:
            a, b = (found[int(record["image_id"])][:count] for found in (one, other))
            if len(a) != len(b) or not len(a):
                largest.append(float(len(a) != len(b)))
                continue
            size = torch.tensor((record["width"], record["height"]) * 2)
            moved = (a.pred_boxes.tensor - b.pred_boxes.tensor).cpu() / size
            largest.append(max(float(moved.abs().max()), float((a.scores - b.scores).abs().max())))
        return largest


def _measure(path: Path, gallery: list[dict], settings: BenchmarkSettings) -> dict[str, Any]:
    shortlist = _shortlist(path, gallery, settings)
    device = torch.device(settings.device)
    detecting, uncached = Stopwatch(device), Stopwatch(device)
    with tempfile.TemporaryDirectory() as scratch:
        folders = (Path(scratch) / str(number) for number in itertools.count())
        filled: list[Path] = []

        def first() -> Found:
            filled.append(next(folders))
            return shortlist.detect(FeatureCacheSettings(str(filled[-1])))

        measured = compare(
            path.stem,
            first,
            lambda: shortlist.detect(FeatureCacheSettings(str(filled[-1]))),
            lambda one, other: max(shortlist.differences(one, other)),
            settings,
        )
        plain = uncached.time(lambda: shortlist.detect(FeatureCacheSettings()))
        _time_detection(shortlist, detecting)
        total, _ = _content(filled[-1])
        half = FeatureCacheSettings(str(next(folders)), max_gb=total / 2 / _BYTES_A_GB)
        bounded = [shortlist.detect(half) for _ in range(2)][-1]
        half_bytes, half_files = _content(Path(half.folder))
    moved = shortlist.differences(plain, measured.ours, count=1)
    return {
        **measured.row,
        "pictures": len(shortlist.gallery),
        "boxes": sum(map(len, measured.ours.values())),
        "detect_seconds": sum(detecting.counted),
        "uncached_seconds": uncached.counted[0],
        "moved_by_rounding": sum(one > 1e-3 for one in moved),
        "bytes_a_picture": total / len(shortlist.gallery),
        "half_files": half_files,
        "half_share": half_bytes / total,
        "half_diff": max(shortlist.differences(bounded, measured.ours)),
    }


def _shortlist(path: Path, gallery: list[dict], settings: BenchmarkSettings) -> _Shortlist:
    cfg = config.get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.WEIGHTS = ""
    small = _SMALL if settings.is_small else []
    # Decoding counts: in another process it would not be seen.
    fixed = ["MODEL.DEVICE", settings.device, "DATALOADER.NUM_WORKERS", 0]
    cfg.merge_from_list([*small, *fixed, *settings.options])
    resolve_config(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    localizer = LocalizerSettings.from_config(cfg)
    shown = next(one for one in gallery if one["annotations"])
    x, y, width, height = shown["annotations"][0]["bbox"]
    place = shown["file_name"], (x, y, x + width, y + height)
    crops, boxes = read_crops([place], localizer.crop, localizer.image_format)
    with torch.no_grad():
        (kernel,) = model.encode_query(crops, boxes)
    return _Shortlist(model, localizer, gallery[: 6 if settings.is_small else 64], kernel)


def _time_detection(shortlist: _Shortlist, watch: Stopwatch) -> None:
    """Detection in each picture, its maps being in memory."""
    model, settings = shortlist.model, shortlist.settings
    kernel = shortlist.kernel[None]
    pictures = GalleryDataset(
        shortlist.gallery, settings.min_size, settings.max_size, settings.image_format
    )
    with torch.no_grad():
        for number in range(len(pictures)):
            images = model.preprocess([pictures[number]["image"]])
            detect = functools.partial(
                model.detect, model.encode_gallery(images), kernel, images.image_sizes, False
            )
            watch.time(detect)


def _content(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files of a folder."""
    sizes = [one.stat().st_size for one in folder.iterdir()]
    return sum(sizes), len(sizes)
