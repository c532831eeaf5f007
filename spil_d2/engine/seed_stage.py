"""The first step of a cycle: proposals on all unlabeled images, and the seeds drawn from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.utils import comm
from tqdm import tqdm

from ..ops.numpy_boxes import BoxFilter
from ..retrieval.proposals import build_proposal_source
from ..retrieval.search import read_rgb
from ..selftrain.seeds import (
    Proposals,
    QuerySeeds,
    count_by_source,
    sample_seeds,
    seed_candidates,
)
from ..utils.artifacts import check_fingerprint, fingerprint, is_published, publish_directory

logger = logging.getLogger(__name__)

SEEDS = "seeds.npz"


def make_seeds(cfg, gallery: Sequence[dict], folder: Path) -> QuerySeeds:
    """The seeds of a cycle: made and published, or loaded where they are published.

    Args:
        cfg: keys of CST.PROPOSALS and CST.SEEDS.
        gallery: Detectron2 dicts of the unlabeled images.
        folder: where they are published.
    """
    made_of = fingerprint(
        {
            "keys": [cfg.CST.PROPOSALS.dump(), cfg.CST.SEEDS.dump()],
            "images": sorted(int(one["image_id"]) for one in gallery),
        }
    )
    if not is_published(folder):
        proposals = {name: _propose(cfg, name, gallery) for name in cfg.CST.SEEDS.SOURCES}
        if comm.is_main_process():
            seeds = _sample(cfg, proposals, gallery)
            facts = {"fingerprint": made_of, "seeds": count_by_source(seeds)}
            publish_directory(folder, lambda path: seeds.save(path / SEEDS), facts)
    comm.synchronize()
    check_fingerprint(folder, made_of)
    return QuerySeeds.load(folder / SEEDS)


def _propose(cfg, name: str, gallery: Sequence[dict]) -> dict[int, Proposals]:
    """Proposals of all images that seeds are drawn from; the main process gets them all.

    Every process takes its share of the images.
    """
    source = build_proposal_source(cfg, name)
    top_k, box_filter = cfg.CST.SEEDS.TOP_K, _box_filter(cfg)
    mine = list(gallery)[comm.get_rank() :: comm.get_world_size()]
    found: dict[int, Proposals] = {}
    for record in tqdm(mine, f"proposals: {name}", disable=not comm.is_main_process()):
        proposals = source(np.asarray(read_rgb(record["file_name"])))
        # A few of an image's hundred: those of all images are in memory together.
        kept = seed_candidates(proposals, record, top_k, box_filter)
        found[int(record["image_id"])] = kept
    return {image_id: one for part in comm.gather(found) for image_id, one in part.items()}


def _sample(cfg, proposals: dict, gallery: Sequence[dict]) -> QuerySeeds:
    node = cfg.CST.SEEDS
    return sample_seeds(
        proposals,
        {int(one["image_id"]): one for one in gallery},
        num_seeds=node.NUM,
        top_k=node.TOP_K,
        box_filter=_box_filter(cfg),
        seed=node.SEED,
    )


def _box_filter(cfg) -> BoxFilter:
    node = cfg.CST.SEEDS
    return BoxFilter(node.MIN_SIDE, node.MAX_ASPECT, node.MIN_AREA, node.MAX_AREA)
