"""Base training: the localizer learns on annotated classes to find what crops show (D27)."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ...selftrain.episodes import EpisodeSampler, build_episodes
from ..pair_trainer import train_localizer
from .task import FewShotTask, with_keys, with_options

logger = logging.getLogger(__name__)


def base_config(cfg) -> CfgNode:
    """What the base training runs with: the configuration and FEW_SHOT.BASE.OPTS.

    An episode's other boxes are annotated objects, so they are positives whatever COATTENTION says
    of look-alikes.
    """
    return with_keys(with_options(cfg, cfg.FEW_SHOT.BASE.OPTS), COATTENTION__EXTRAS="extra_gt")


def train_base(cfg, resume: bool) -> Path:
    """Train on the base classes' episodes from MODEL.WEIGHTS on, in OUTPUT_DIR.

    Memory: a pool of all annotations (some 0.4 kB each) in every worker's view and, with
    MODEL.QUERY.CACHE_VECTORS, one vector for each support crop (FEW_SHOT.BASE.MAX_SUPPORTS).

    Args:
        cfg: frozen; FEW_SHOT.DATASET names the task.
        resume: go on with the same training, or return at once where it is finished.

    Returns:
        The weights, OUTPUT_DIR/localizer.pth.
    """
    task = FewShotTask.from_config(cfg)
    cfg = base_config(cfg)
    gallery = DatasetCatalog.get(task.base_train)
    node = cfg.FEW_SHOT.BASE
    episodes = build_episodes(gallery, seed=cfg.SEED, min_support_side=node.MIN_SUPPORT_SIDE)
    sampler = EpisodeSampler(
        episodes,
        num_crops=cfg.MODEL.QUERY.NUM_CROPS,
        max_supports=node.MAX_SUPPORTS,
        contrastive=cfg.SPIL.CONTRASTIVE,
    )
    logger.info(
        "base training: %d classes, %d boxes on %d images",
        len(sampler.query_ids),
        sum(len(one.candidates) for one in episodes.pool.queries),
        len(gallery),
    )
    return train_localizer(
        cfg,
        gallery,
        episodes.queries,
        episodes.pool,
        sampler,
        cfg.OUTPUT_DIR,
        resume,
        num_supports=node.MAX_SUPPORTS,
    )
