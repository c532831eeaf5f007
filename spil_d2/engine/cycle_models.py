"""The two models of a cycle: their configurations, and what they learn before its first round."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..config import get_cfg
from ..data.datasets.identity_split import split_dataset
from ..data.datasets.instance_search import get_queries
from ..data.region_crops import labelled_regions
from ..selftrain.similarity_sampling import SeedPairSampler
from ..structures import Candidate, Query, QueryPool, Reference, SamplePool, Target
from .index_config import config_folder
from .pair_trainer import train_localizer
from .presets import resolve_config
from .ranker_inference import train_split
from .ranker_trainer import identity_regions, train_ranker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CycleConfigs:
    """What the trainings of a cycle run with.

    Attributes:
        localizer_pretraining, localizer_round: of `train_localizer`.
        ranker_pretraining, ranker_round: of `train_ranker`.
    """

    localizer_pretraining: CfgNode
    localizer_round: CfgNode
    ranker_pretraining: CfgNode
    ranker_round: CfgNode

    @classmethod
    def from_config(cls, cfg) -> CycleConfigs:
        """As the keys of CST say; SEED, datasets and identities are those of `cfg`."""
        ranker = get_cfg()
        ranker.merge_from_file(str(_find_config(cfg.CST.RANKER.CONFIG)))
        ranker.MODEL.DEVICE = cfg.MODEL.DEVICE
        ranker.SEED = cfg.SEED
        ranker.DATASETS.TRAIN, ranker.DATASETS.TEST = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
        for key in ("IDENTITIES", "TEST_IDENTITIES", "IDENTITY_FRACTION", "IDENTITY_SEED"):
            ranker.RANKER[key] = cfg.RANKER[key]
        return cls(
            _with(cfg, cfg.CST.LOCALIZER.PRETRAIN_OPTS),
            _with(cfg, cfg.CST.LOCALIZER.ROUND_OPTS),
            _with(ranker, cfg.CST.RANKER.PRETRAIN_OPTS),
            _with(ranker, cfg.CST.RANKER.ROUND_OPTS),
        )


def with_weights(cfg, weights: str | Path) -> CfgNode:
    """The configuration with other MODEL.WEIGHTS."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.freeze()
    return cfg


def pretrained_ranker(cfg, configs: CycleConfigs, folder: Path) -> Path:
    """CST.RANKER.WEIGHTS, or what training on identities gives ("Any-ReID")."""
    if cfg.CST.RANKER.WEIGHTS:
        return _existing(cfg.CST.RANKER.WEIGHTS, "CST.RANKER.WEIGHTS")
    regions, identities = identity_regions(configs.ranker_pretraining)
    return train_ranker(configs.ranker_pretraining, regions, identities, folder, resume=True)


def pretrained_localizer(cfg, configs: CycleConfigs, folder: Path) -> Path:
    """CST.LOCALIZER.WEIGHTS, or what training on pairs of one identity gives (spec 3.4)."""
    if cfg.CST.LOCALIZER.WEIGHTS:
        return _existing(cfg.CST.LOCALIZER.WEIGHTS, "CST.LOCALIZER.WEIGHTS")
    gallery: list[dict] = []
    for name in cfg.DATASETS.TRAIN:
        gallery += split_dataset(DatasetCatalog.get(name), get_queries(name), train_split(cfg))[0]
    queries, pool = identity_pool(gallery)
    similarities = {one.query_id: np.ones(len(one.candidates)) for one in pool.queries}
    sampler = SeedPairSampler(pool, similarities, strategy="topk")
    configuration = configs.localizer_pretraining
    return train_localizer(configuration, gallery, queries, pool, sampler, folder, resume=True)


def identity_pool(gallery: Sequence[dict]) -> tuple[list[Query], SamplePool]:
    """Every annotated box as a query, the other images' boxes of its identity as candidates.

    Args:
        gallery: Detectron2 dicts whose annotations carry "instance_id".

    Returns:
        The queries, and a pool in which an identity on one image alone has no candidates.

    Raises:
        ValueError: two images of the same id, as of two datasets that number theirs alike.
    """
    images = {one["file_name"]: one for one in gallery}
    if len({int(one["image_id"]) for one in images.values()}) != len(gallery):
        raise ValueError("two images for pre-training have the same id: name one of the datasets")
    regions, identities = labelled_regions(gallery)
    members: dict[int, list[int]] = {}
    for row, identity in enumerate(identities.tolist()):
        members.setdefault(identity, []).append(row)
    queries, pools = [], []
    for row, (file_name, box) in enumerate(regions):
        one = images[file_name]
        image_id = int(one["image_id"])
        reference = Reference(file_name, one["width"], one["height"], box, image_id)
        queries.append(Query(row, (reference,), int(identities[row])))
        others = [regions[other] for other in members[int(identities[row])]]
        candidates = tuple(
            Candidate(int(images[name]["image_id"]), other, Target(other, 1.0))
            for name, other in others
            if name != file_name
        )
        pools.append(QueryPool(row, Target(box, 1.0), candidates))
    return queries, SamplePool(1, tuple(pools))


def _with(cfg, opts: Sequence) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(opts))
    resolve_config(cfg)
    cfg.freeze()
    return cfg


def _find_config(name: str) -> Path:
    for path in (Path(name), config_folder() / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"CST.RANKER.CONFIG is {name!r}: there is no such file, here or in {config_folder()}"
    )


def _existing(path: str, key: str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{key} is {path!r}: there is no such file")
    return Path(path)
