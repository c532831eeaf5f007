"""Seconds of a training iteration, against Detectron2's Mask R-CNN on the same pictures."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ... import config
from ...data.build import PairDataset
from ...data.datasets.instance_search import load_gallery, load_queries
from ...selftrain.pairs import PairSampler
from ...selftrain.pseudo_labels import initial_pool
from ...structures import Query, RankList, RankLists
from ...utils.checkpoints import SafeCheckpointer
from ..localizer import Localizer, LocalizerSettings
from ..presets import resolve_config
from ..training import LocalizerTrainer, build_optimizer, build_pair_mapper
from .comparison import Stopwatch, compare
from .pictures import picture_folder
from .settings import BenchmarkSettings
from .training_curves import loss_curves

REFERENCE = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
_OPERATIONS_A_MAC = 2
_GIGA = 1e9
# The paper's share of a GPU.
_BATCH = ["SOLVER.IMS_PER_BATCH", 2]
_SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MAX_SIZE_TRAIN", 128),
    *("MODEL.EFFICIENTNET.VARIANT", "lite0", "MODEL.BF16", "off"),
    *("MODEL.QUERY.CROP_SIZE", 64, "MODEL.QUERY.CROP_CONTEXT", 8, "MODEL.QUERY.NUM_CROPS", 2),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 40, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
]


def training(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """An iteration of SPIL against one of Mask R-CNN R50-FPN, and what may not change the loss.

    Both learn from the same pictures, boxes and masks (those of the boxes), at the same sizes and
    as many to a batch, with the same numbers of proposals and of sampled RoIs a map. An iteration
    is forward pass, backward pass and step on a batch that is there; reading it is timed apart.

    Returns:
        For each preset of `settings.config_files` a row against Mask R-CNN and those of
        `training_curves.loss_curves`. In the first, "max_abs_diff" is of the normalized pictures;
        "reference_gmac" and "our_gmac" are the multiplications of an iteration as counted while it
        runs, backward pass included, "crops_gmac" those of the query crops; "overhead" is what an
        iteration takes more than these make it; "data_seconds" of the processor prepare a batch,
        and "data_share" is their part of an iteration's.
    """
    rows = []
    with picture_folder(settings) as root:
        for path in settings.config_files:
            cfg = _training_config(path, settings)
            rows += [_against_detector(path.stem, cfg, root, settings)]
            rows += loss_curves(path.stem, cfg, lambda keys: _stream(keys, root), settings)
    return rows


def count_gmac(way: Callable[[], Any]) -> float:
    """10^9 multiplications of convolutions and matrix products, those of backward passes too."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops() / _OPERATIONS_A_MAC / _GIGA


def _training_config(path: Path, settings: BenchmarkSettings) -> CfgNode:
    cfg = config.get_cfg()
    cfg.merge_from_file(str(path))
    if settings.is_small:
        cfg.MODEL.WEIGHTS = ""
    small = _SMALL if settings.is_small else []
    cfg.merge_from_list([*_BATCH, *small, "MODEL.DEVICE", settings.device, *settings.options])
    resolve_config(cfg)
    return cfg


def _against_detector(
    case: str, cfg: CfgNode, root: Path, settings: BenchmarkSettings
) -> dict[str, Any]:
    stream = _stream(cfg, root)
    batch = [stream[i] for i in range(cfg.SOLVER.IMS_PER_BATCH)]
    ours, reference = _loaded_model(cfg), _loaded_model(_detector_config(cfg))
    iteration = _iteration(
        LocalizerTrainer.build_stepper(cfg, ours, build_optimizer(cfg, ours)), batch
    )
    detection = _iteration(SimpleTrainer(reference, [], build_optimizer(cfg, reference)), batch)
    measured = compare(
        f"{case} and Mask R-CNN",
        detection,
        iteration,
        lambda one, other: _picture_difference(reference, ours, batch),
        settings,
        warm_up=not settings.is_small,
    )
    gmac = count_gmac(detection), count_gmac(iteration)
    seconds = measured.row["reference_seconds"], measured.row["our_seconds"]
    data_seconds = _reading_seconds(stream, len(batch), settings)
    return {
        **measured.row,
        "batch": len(batch),
        "size": "x".join(map(str, batch[0]["image"].shape[1:])),
        "reference_gmac": gmac[0],
        "our_gmac": gmac[1],
        "crops_gmac": count_gmac(lambda: _encode_crops(ours, batch)),
        "overhead": (seconds[1] / seconds[0]) / (gmac[1] / gmac[0]) - 1,
        "data_seconds": data_seconds,
        "data_share": data_seconds / seconds[1],
    }


def _detector_config(cfg: CfgNode) -> CfgNode:
    """Detectron2's configuration as it comes, but for the sizes that both share."""
    theirs = model_zoo.get_config(REFERENCE)
    resnet = cfg.MODEL.BACKBONE.NAME.startswith("build_resnet")
    theirs.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS if resnet else ""
    theirs.INPUT.FORMAT, theirs.INPUT.MASK_FORMAT = cfg.INPUT.FORMAT, "bitmask"
    for name in ("DEVICE", "PIXEL_MEAN", "PIXEL_STD"):
        theirs.MODEL[name] = cfg.MODEL[name]
    for name in ("PRE_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TRAIN", "BATCH_SIZE_PER_IMAGE"):
        theirs.MODEL.RPN[name] = cfg.MODEL.RPN[name]
    theirs.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    return theirs


def _loaded_model(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(cfg)
    if cfg.MODEL.WEIGHTS:
        SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model.train()


def _iteration(trainer: SimpleTrainer, batch: list[dict]) -> Callable[[], None]:
    """An iteration that leaves the weights as they are, so that each takes as long."""
    trainer.reset_data_loader(lambda: itertools.repeat(batch))
    trainer.iter = trainer.start_iter = 0
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.0

    def run() -> None:
        torch.manual_seed(0)
        with EventStorage():
            trainer.run_step()

    return run


def _encode_crops(model: nn.Module, batch: list[dict]) -> None:
    """Forward and backward pass of the query crops alone, if they go through the backbone."""
    if "query_vectors" in batch[0]:
        return
    kernels = [
        model.encode_query(item[f"{role}_crops"], item[f"{role}_boxes"])
        for item in batch
        for role in ("query", "negative")
        if f"{role}_crops" in item
    ]
    if kernels[0].requires_grad:
        torch.cat(kernels).sum().backward()
    model.zero_grad()


def _picture_difference(reference: nn.Module, ours: nn.Module, batch: list[dict]) -> float:
    """Of the pixels that the backbones see; what is padded differs."""
    theirs = reference.preprocess_image(batch)
    own = ours.preprocess([item["image"] for item in batch])
    pairs = zip(theirs, own, strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


def _reading_seconds(stream: PairDataset, size: int, settings: BenchmarkSettings) -> float:
    """Of the processor, for a batch: the median over batches, each of other items."""
    watch, items = Stopwatch(torch.device("cpu")), itertools.count()
    for _ in range(settings.repeats):
        watch.time(lambda: [stream[i] for i in itertools.islice(items, size)])
    return statistics.median(watch.counted)


def _stream(cfg: CfgNode, root: Path) -> PairDataset:
    """The items of stage 0, as if a search had found an instance's pictures, and its boxes."""
    gallery, queries = load_gallery(root, root.name), load_queries(root)
    pool = initial_pool(queries, _annotated_lists(gallery, queries), cfg.SPIL.TRAIN_TOP_K)
    vectors = None
    if cfg.MODEL.QUERY.CACHE_VECTORS:
        localizer_settings = LocalizerSettings.from_config(cfg)
        localizer = Localizer(_loaded_model(cfg), gallery, queries, localizer_settings)
        vectors = localizer.encode_pool(pool, cfg.SPIL.TRAIN_TOP_K, progress=False)
    own_images = {query.id: query.own_image_ids for query in queries}
    sampler = PairSampler(pool, own_images, num_crops=cfg.MODEL.QUERY.NUM_CROPS)
    mapper = build_pair_mapper(cfg, pool, gallery, queries, vectors)
    return PairDataset(sampler.query_ids, sampler.draw, mapper, cfg.SEED)


def _annotated_lists(gallery: list[dict], queries: list[Query]) -> RankLists:
    """For each query the images that show its instance, with one annotated box each."""
    shown: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for record in gallery:
        for one in record["annotations"]:
            x, y, width, height = one["bbox"]
            shown[one["instance_id"]][record["image_id"]] = [x, y, x + width, y + height]
    lists = []
    for query in queries:
        boxes = shown[query.instance_id]
        ids = [i for i in sorted(boxes) if i not in query.own_image_ids]
        rows = np.array([boxes[i] for i in ids], np.float32).reshape(-1, 4)
        lists.append(
            RankList(query.id, np.array(ids, np.int64), rows, np.ones(len(ids), np.float32))
        )
    return RankLists(tuple(lists))
