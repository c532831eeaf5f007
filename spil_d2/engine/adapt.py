"""Self-paced training on an index's own pictures: the localizer behind `--refine`."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from PIL import Image

from ..data.datasets.instance_search import register_instance_search
from ..data.datasets.records import ANNOTATIONS_FILE, IMAGES_FOLDER, QUERIES_FILE
from ..data.pictures import Picture, read_picture
from ..structures import RankList, RankLists, SearchHit
from ..utils.artifacts import (
    fingerprint,
    is_published,
    lock_output_dir,
    publish_directory,
    remove_artefact,
    write_json_atomic,
)
from .calibration import object_box
from .index_config import save_config
from .index_directory import LOCALIZER, FolderIndex
from .presets import resolve_config
from .refinement import CONFIG, WEIGHTS, newest_localizer
from .searcher import QueryImage, Searcher
from .segments import WORKING_SIDE
from .trainer import SpilTrainer

logger = logging.getLogger(__name__)

MIN_QUERIES = 6
"""With fewer queries, regions of the index's pictures are trained on beside them: the contrast
with foreign queries is what teaches to tell instances apart."""

MIN_ITERATIONS = 8
_WORK = "adapt"
_LISTS = "rank_lists.npz"
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class AdaptSettings:
    """How a localizer is adapted.

    Attributes:
        iterations: of training, all stages together, at least `MIN_ITERATIONS`.
        depth: ranked pictures of each query that training may look at.
        seed: of all chance.
        opts: KEY VALUE ... on top of the index's configuration.
    """

    iterations: int = 240
    depth: int = 32
    seed: int = 0
    opts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.iterations < MIN_ITERATIONS or self.depth < 2 or self.seed < 0:
            raise ValueError(
                f"{self.iterations} iterations on {self.depth} pictures a query, seed {self.seed}: "
                f"allowed are {MIN_ITERATIONS}, 2 and 0 or more"
            )


def adapt(
    index_dir: str | Path,
    queries: Sequence[Sequence[QueryImage]],
    settings: AdaptSettings | None = None,
) -> Path:
    """Train a localizer without labels and publish it in the index.

    A run that was killed and is started again with the same queries and settings goes on. The
    localizer that was there serves until the new one is published.

    Args:
        index_dir: a complete index.
        queries: of each instance its references; training localizes the first box of the first.
        settings: see there.

    Returns:
        The directory of the localizer.

    Raises:
        ValueError: no query, or the index holds too few pictures to train on.
        RuntimeError: another run adapts or updates this index.
    """
    settings, index_dir = settings or AdaptSettings(), Path(index_dir)
    if not queries or not all(queries):
        raise ValueError("adaptation needs at least one query with a reference picture")
    started = time.monotonic()
    index = FolderIndex(index_dir)
    with lock_output_dir(index_dir), Searcher.open(index_dir) as searcher:
        everyone = [*queries, *_companions(searcher, queries, settings)]
        cfg = _config(index.config, settings)
        work = index_dir / _WORK / _name(everyone, cfg)
        _remove_others(work)
        if not is_published(work / "dataset"):
            publish_directory(
                work / "dataset",
                lambda path: _write_dataset(path, searcher, everyone, settings),
                {},
            )
        weights = _train(cfg, work)
        target = _publish(index_dir / LOCALIZER, cfg, weights, len(queries), settings)
    shutil.rmtree(index_dir / _WORK)
    logger.info("adapted in %.0f s: %s", time.monotonic() - started, target)
    return target


def _config(base: CfgNode, settings: AdaptSettings) -> CfgNode:
    cfg = base.clone()
    cfg.SOLVER.MAX_ITER = settings.iterations
    cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, settings.iterations // 12)
    cfg.SOLVER.CHECKPOINT_PERIOD = max(1, settings.iterations // 6)
    cfg.SPIL.TRAIN_TOP_K = min(cfg.SPIL.TRAIN_TOP_K, settings.depth)
    cfg.SEARCH.TOP_K = settings.depth
    cfg.SEED = settings.seed
    cfg.merge_from_list(list(settings.opts))
    resolve_config(cfg)
    return cfg


def _name(queries: Sequence[Sequence[QueryImage]], cfg: CfgNode) -> str:
    shown = [
        [[list(one.image.shape), int(one.image.sum()), one.boxes] for one in references]
        for references in queries
    ]
    return fingerprint([shown, cfg.dump()])


def _remove_others(work: Path) -> None:
    """What killed runs with other queries or settings left."""
    if work.parent.is_dir():
        for folder in work.parent.iterdir():
            if folder.name != work.name:
                shutil.rmtree(folder)


def _companions(
    searcher: Searcher, queries: Sequence[Sequence[QueryImage]], settings: AdaptSettings
) -> list[list[QueryImage]]:
    """Regions of pictures that are not near the queries, as further instances."""
    missing = MIN_QUERIES - len(queries)
    if missing <= 0:
        return []
    near = {hit.image_id for one in queries for hit in searcher.search(one, settings.depth)}
    near |= {one.image_id for references in queries for one in references if one.image_id}
    far = [image_id for image_id, _ in searcher.images() if image_id not in near]
    rng = np.random.default_rng(settings.seed)
    found: list[list[QueryImage]] = []
    for image_id in rng.permutation(far)[:missing].tolist():
        width, height = searcher.image_size(image_id)
        x0, y0, x1, y1 = object_box(searcher.regions_of(image_id), (height, width), rng).tolist()
        found.append([searcher.query_image(searcher.image_path(image_id), [(x0, y0, x1, y1)])])
    logger.info(
        "%d queries, and %d regions of other pictures beside them", len(queries), len(found)
    )
    return found


def _write_dataset(
    path: Path,
    searcher: Searcher,
    queries: Sequence[Sequence[QueryImage]],
    settings: AdaptSettings,
) -> None:
    """The ranked pictures as a data set of their own: upright 8-bit copies, whatever they were."""
    (path / IMAGES_FOLDER).mkdir()
    found = [searcher.search(references, settings.depth) for references in queries]
    images, scales = [], {}
    for image_id in sorted({hit.image_id for hits in found for hit in hits}):
        picture = read_picture(searcher.image_path(image_id), WORKING_SIDE)
        name = f"{image_id:09d}.jpg"
        images.append(
            {
                "id": image_id,
                "file_name": name,
                **_save(picture.pixels, path / IMAGES_FOLDER / name),
            }
        )
        scales[image_id] = picture
    records = []
    for number, references in enumerate(queries, 1):
        parts = [
            part for i, one in enumerate(references) for part in _references(path, number, i, one)
        ]
        records.append({"id": number, "instance_id": None, **parts[0], "references": parts[1:]})
    write_json_atomic(path / ANNOTATIONS_FILE, {"images": images, "annotations": []})
    write_json_atomic(path / QUERIES_FILE, records)
    lists = [_rank_list(number, hits, scales) for number, hits in enumerate(found, 1)]
    RankLists(tuple(lists)).save(path / _LISTS)


def _references(path: Path, number: int, place: int, query: QueryImage) -> list[dict]:
    """The query's boxes as records; one that is of the index is not in its own list anyway."""
    name = f"query_{number:04d}_{place}.jpg"
    size = _save(query.image, path / name)
    return [
        {"file_name": name, **size, "image_id": None, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for x0, y0, x1, y1 in query.boxes
    ]


def _save(pixels: np.ndarray, path: Path) -> dict[str, int]:
    Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY)
    return {"width": pixels.shape[1], "height": pixels.shape[0]}


def _rank_list(number: int, hits: Sequence[SearchHit], pictures: dict[int, Picture]) -> RankList:
    # Re-ranking may have moved hits; a rank list is sorted by similarity.
    hits = sorted(hits, key=lambda hit: -hit.similarity)
    boxes = [pictures[hit.image_id].from_displayed(np.array([hit.box]))[0] for hit in hits]
    return RankList(
        number,
        np.array([hit.image_id for hit in hits], np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([hit.similarity for hit in hits], np.float32),
    )


def _train(cfg: CfgNode, work: Path) -> dict[str, torch.Tensor]:
    """Weights after all stages, on the CPU."""
    name = f"ins_index_{work.name}"
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(work / "run")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.SEARCH.RANK_LISTS = str(work / "dataset" / _LISTS)
    cfg.freeze()
    (work / "run").mkdir(exist_ok=True)
    register_instance_search(name, work / "dataset")
    logger.info("seed %d", cfg.SEED)
    seed_all_rng(cfg.SEED)
    try:
        trainer = SpilTrainer(cfg, resume=True)
        trainer.train()
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    state = trainer.unwrapped_model.state_dict()
    return {key: value.detach().cpu() for key, value in state.items()}


def _publish(
    directory: Path,
    cfg: CfgNode,
    weights: dict[str, torch.Tensor],
    num_queries: int,
    settings: AdaptSettings,
) -> Path:
    newest = newest_localizer(directory)
    number = int(newest.name) + 1 if newest is not None else 1

    def write(path: Path) -> None:
        torch.save(weights, path / WEIGHTS)
        save_config(cfg, path / CONFIG)

    facts = {"queries": num_queries, "iterations": settings.iterations, "seed": settings.seed}
    target = publish_directory(directory / f"{number:04d}", write, facts)
    for folder in directory.iterdir():
        if folder != target and is_published(folder):
            remove_artefact(folder)
    return target
