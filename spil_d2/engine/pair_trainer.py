"""Training a localizer on pairs: a seed and a region that was found for it, two boxes of one
identity (CST), or episodes of annotated classes (few-shot base training)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
from detectron2.modeling import build_model
from detectron2.utils import comm

from ..backbones import load_all_weights
from ..data.build import PairDataset, build_pair_loader
from ..data.pair_mapper import VectorTable
from ..modeling import QueryRCNN
from ..structures import Pair, Query, SamplePool
from ..utils.artifacts import fingerprint
from .checkpoint import save_weights
from .localizer import Localizer, LocalizerSettings
from .training import LocalizerTrainer, build_pair_mapper
from .training_run import begin_run, kept_keys, named_pairs, noted_failures

logger = logging.getLogger(__name__)

WEIGHTS = "localizer.pth"
"""The trained weights in a training's folder; written last."""

_KEYS = ("INPUT", "MODEL", "SOLVER", "SPIL", "COATTENTION")


class PairSource(Protocol):
    """What pairs are drawn with, e.g. `SeedPairSampler` or `EpisodeSampler`.

    Attributes:
        query_ids: the queries that have something to draw, at least one.
    """

    query_ids: tuple[int, ...]

    def draw(self, query_id: int, rng: np.random.Generator) -> Pair:
        """A pair of a query, as a function of the generator alone."""


class PairTrainer(LocalizerTrainer):
    """Trains a QueryRCNN on a stream of pairs.

    A run is a function of its configuration, pool and SEED: killed anywhere and resumed, it ends
    with the same weights.
    """

    def __init__(
        self,
        cfg,
        gallery: Sequence[dict],
        queries: Sequence[Query],
        pool: SamplePool,
        sampler: PairSource,
        resume: bool = False,
        num_supports: int = 0,
    ):
        """
        Args:
            cfg: frozen, of the meta-architecture "QueryRCNN".
            gallery: Detectron2 dicts of the pool's images.
            queries: of the pool.
            pool: what pairs are drawn from.
            sampler: draws them.
            resume: go on from the last checkpoint in OUTPUT_DIR.
            num_supports: so many first candidates of a query are crops of its kernels, beside its
                own, -1 all; with MODEL.QUERY.CACHE_VECTORS their vectors are kept in memory.
        """
        super().__init__(cfg)
        self.resume_or_load(resume=resume)
        vectors = self._vectors(gallery, queries, pool, num_supports)
        mapper = build_pair_mapper(cfg, pool, gallery, queries, vectors)
        self._stream = PairDataset(sampler.query_ids, sampler.draw, mapper, cfg.SEED), mapper
        loader = build_pair_loader(
            self._stream[0], self.start_iter, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS
        )
        self._trainer.reset_data_loader(lambda: loader)

    def run_step(self) -> None:
        """As DefaultTrainer's; see `noted_failures`."""
        with noted_failures(self, self._batch):
            super().run_step()

    def _batch(self) -> list[dict]:
        size = self.cfg.SOLVER.IMS_PER_BATCH
        return named_pairs(*self._stream, range(self.iter * size, (self.iter + 1) * size))

    def _vectors(
        self,
        gallery: Sequence[dict],
        queries: Sequence[Query],
        pool: SamplePool,
        num_supports: int,
    ) -> VectorTable | None:
        """Kernels of the crops that pairs may use, which a frozen backbone gives once."""
        if not self.cfg.MODEL.QUERY.CACHE_VECTORS:
            return None
        settings = LocalizerSettings.from_config(self.cfg)
        localizer = Localizer(self.unwrapped_model, gallery, queries, settings)
        if num_supports < 0:
            num_supports = max(len(one.candidates) for one in pool.queries)
        return localizer.encode_pool(pool, num_supports)


def train_localizer(
    cfg,
    gallery: Sequence[dict],
    queries: Sequence[Query],
    pool: SamplePool,
    sampler: PairSource,
    output_dir: str | Path,
    resume: bool = False,
    num_supports: int = 0,
) -> Path:
    """Train on pairs: a whole run of its own, from MODEL.WEIGHTS on, with a fresh optimizer.

    Args:
        cfg: of the meta-architecture "QueryRCNN".
        gallery, queries, pool, sampler, num_supports: as for `PairTrainer`.
        output_dir: folder of this training.
        resume: go on with the training of the same pool and keys in that folder, or return at once
            if it is finished; else what lies there is forgotten.

    Returns:
        The weights, `output_dir`/localizer.pth.

    Raises:
        ValueError: for keys that do not fit, or a resumed training of something else.
    """
    output = Path(output_dir)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    _check(cfg)
    weights = output / WEIGHTS
    if begin_run(output, _fingerprint(cfg, pool, sampler), WEIGHTS, resume):
        logger.info("%s is there already: nothing is left to do", weights)
        return weights
    logger.info("training the localizer on pairs of %d queries", len(sampler.query_ids))
    trainer = PairTrainer(cfg, gallery, queries, pool, sampler, resume, num_supports)
    trainer.train()
    if comm.is_main_process():
        save_weights(trainer.unwrapped_model, weights)
    comm.synchronize()
    return weights


def load_localizer(cfg, weights: str | Path) -> QueryRCNN:
    """The localizer of a configuration with trained weights, for inference.

    Raises:
        ValueError: the file lacks weights of the model.
    """
    model = build_model(cfg)
    load_all_weights(model, str(weights))
    return model.eval()


def _fingerprint(cfg, pool: SamplePool, sampler: PairSource) -> str:
    """Of all that the weights depend on; places, device and workers are not among it."""
    drawn = np.random.default_rng(0)
    return fingerprint(
        {
            "pool": [
                [one.query_id, one.reference.box, [[c.image_id, *c.box] for c in one.candidates]]
                for one in pool.queries
            ],
            # Stands for the sampler's strategy and similarities.
            "pairs": [asdict(sampler.draw(query_id, drawn)) for query_id in sampler.query_ids],
            **kept_keys(cfg, _KEYS),
        }
    )


def _check(cfg) -> None:
    if cfg.MODEL.META_ARCHITECTURE != "QueryRCNN":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, not QueryRCNN"
        )
    if cfg.SEED < 0:
        raise ValueError("SEED must be >= 0: a resumed run has to draw what the first one drew")
    if cfg.MODEL.QUERY.CACHE_VECTORS and cfg.MODEL.BACKBONE.FREEZE_AT < 5:
        raise ValueError(
            "MODEL.QUERY.CACHE_VECTORS needs a frozen backbone: set MODEL.BACKBONE.FREEZE_AT to 5"
        )
