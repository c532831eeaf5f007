"""All search engines on one dataset: how well they rank and localize, how fast, how large."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from ..evaluation import AP_VARIANTS, GroundTruth, localization_metrics
from ..retrieval import RegionIndex, SearchEngine, build_index, build_search_engine
from ..retrieval.engines import LocalizingEngine
from ..retrieval.index import open_region_index
from ..retrieval.search import (
    ImageReader,
    SearchSettings,
    embed_queries,
    localize_lists,
    rank_gallery,
    read_rgb,
)
from ..structures import Query, RankLists
from ..utils.artifacts import (
    fingerprint,
    is_published,
    publish_directory,
    read_manifest,
    write_json_atomic,
)
from .index_config import engine_fingerprint

logger = logging.getLogger(__name__)

RERANKINGS = ("none", "qe", "kr", "qe+kr")
"""As ranked; after query expansion; after k-reciprocal re-ranking; after both."""

_ROWS = "rows.json"


@dataclass(frozen=True)
class Dataset:
    """A dataset whose truth is known.

    Attributes:
        name: in the catalog.
        gallery: Detectron2 dicts.
        queries: all of them.
    """

    name: str
    gallery: Sequence[dict]
    queries: Sequence[Query]

    def image_reader(self, bar: tqdm) -> ImageReader:
        """Reads gallery pictures by their ids, and counts them."""
        files = {int(one["image_id"]): str(one["file_name"]) for one in self.gallery}

        def read(image_id: int) -> np.ndarray:
            bar.update()
            return read_rgb(files[image_id])

        return read


def engine_rows(
    name: str,
    cfg: CfgNode,
    dataset: Dataset,
    output_dir: Path,
    *,
    rerankings: Sequence[str],
    k: int,
) -> list[dict]:
    """The rows of one engine, from its artefact where it is there.

    `output_dir/index/NAME-FINGERPRINT/` holds the index, which a run that was interrupted behind it
    goes on from, and `output_dir/rows/NAME-FINGERPRINT/` the rows.

    Args:
        name: of the row.
        cfg: SEARCH, MODEL.BACKBONE etc. of the engine.
        dataset: what is searched.
        output_dir: of the table.
        rerankings: names in `RERANKINGS`.
        k: the cut of the rank lists.

    Returns:
        One row for each re-ranking, or one with "reason" where the engine cannot be built here.
    """
    unknown = set(rerankings) - set(RERANKINGS)
    if unknown or not rerankings:
        raise ValueError(f"re-rankings {sorted(unknown)}: use some of {RERANKINGS}")
    key = _key(cfg, dataset)
    folder = output_dir / "rows" / f"{name}-{fingerprint([key, list(rerankings), k, _tail(cfg)])}"
    if not is_published(folder):
        try:
            engine = build_search_engine(cfg)
        except (ImportError, OSError, ValueError) as error:
            logger.warning("%s cannot be built here: %s", name, error)
            return [{"engine": name, "reason": str(error)}]
        index, facts = _index(engine, cfg, name, dataset, output_dir, key)
        rows = _measure(engine, index, cfg, dataset, rerankings, k)
        rows = [{"engine": name, **facts, **row} for row in rows]
        publish_directory(
            folder,
            lambda path: write_json_atomic(path / _ROWS, rows),
            {"engine": name, "dataset": dataset.name, "k": k},
        )
    return json.loads((folder / _ROWS).read_text())


def _key(cfg: CfgNode, dataset: Dataset) -> str:
    """Of everything that an index depends on."""
    pictures = [
        (one["image_id"], one["file_name"], Path(one["file_name"]).stat().st_mtime_ns)
        for one in dataset.gallery
    ]
    return fingerprint([dataset.name, pictures, engine_fingerprint(cfg), cfg.SEARCH.CENTRED])


def _tail(cfg: CfgNode) -> dict:
    return {"QE": cfg.SEARCH.QE, "KRECIPROCAL": cfg.SEARCH.KRECIPROCAL}


def _index(
    engine: SearchEngine, cfg: CfgNode, name: str, dataset: Dataset, output_dir: Path, key: str
) -> tuple[RegionIndex, dict]:
    """The engine's index, built by this process alone, and how long that took."""
    folder = output_dir / "index" / f"{name}-{key}"
    if not is_published(folder):
        start = time.perf_counter()
        with tqdm(total=len(dataset.gallery), desc=f"{name}: indexing", unit="image") as bar:
            index = build_index(
                engine,
                dataset.gallery,
                lambda done, _: bar.update(done - bar.n),
                is_centred=cfg.SEARCH.CENTRED,
            )
        seconds = time.perf_counter() - start
        publish_directory(folder, index.save, {"seconds": seconds, "fingerprint": key})
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    index = open_region_index(folder)
    return index, {
        "images_per_second": len(index) / read_manifest(folder)["seconds"],
        "regions_per_image": index.num_regions / len(index),
        "dimension": index.dimension,
        "index_mb": size / 1e6,
    }


def _measure(
    engine: SearchEngine,
    index: RegionIndex,
    cfg: CfgNode,
    dataset: Dataset,
    rerankings: Sequence[str],
    k: int,
) -> list[dict]:
    truth = GroundTruth.from_dataset(dataset.gallery, dataset.queries)
    queries = dataset.queries
    start = time.perf_counter()
    embeddings = embed_queries(engine, queries)
    embedding_seconds = time.perf_counter() - start
    many, seconds = [], []
    for reranking in rerankings:
        start = time.perf_counter()
        many.append(rank_gallery(index, queries, embeddings, k, _settings(cfg, reranking)))
        seconds.append(embedding_seconds + time.perf_counter() - start)
    localizing_seconds = 0.0
    if isinstance(engine, LocalizingEngine):
        start = time.perf_counter()
        ranked = {int(i) for lists in many for one in lists.lists for i in one.image_ids}
        with tqdm(total=len(ranked), desc="localizing", unit="image") as bar:
            many = localize_lists(engine, queries, many, dataset.image_reader(bar))
        localizing_seconds = (time.perf_counter() - start) / len(rerankings)
    return [
        {
            "reranking": reranking,
            **_metrics(lists, truth, k),
            "ms_per_query": 1000 * ranking_seconds / len(queries),
            "ms_localizing": 1000 * localizing_seconds / len(queries),
        }
        for reranking, lists, ranking_seconds in zip(rerankings, many, seconds)
    ]


def _settings(cfg: CfgNode, reranking: str) -> SearchSettings:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEARCH.QE.ENABLED = cfg.SEARCH.KRECIPROCAL.ENABLED = True
    settings = SearchSettings.from_config(cfg)
    if "qe" not in reranking:
        settings = replace(settings, expansion=None)
    return settings if "kr" in reranking else replace(settings, reciprocal=None)


def _metrics(lists: RankLists, truth: GroundTruth, k: int) -> dict[str, float]:
    """In percent, all of the first k ranks."""
    judged = truth.judge_all(lists)
    found = {
        f"ap_{name}": 100 * float(np.mean([ap(one.hits, one.num_relevant, k) for one in judged]))
        for name, ap in AP_VARIANTS.items()
    }
    return {**found, "miou_tp": localization_metrics(judged, k)[f"mIoU_TP@{k}"]}


_COLUMNS: Mapping[str, tuple[str, str]] = {
    "engine": ("engine", ""),
    "reranking": ("re-ranking", ""),
    **{f"ap_{name}": (f"AP {name}", ".2f") for name in AP_VARIANTS},
    "miou_tp": ("mIoU_TP", ".2f"),
    "images_per_second": ("images/s", ".1f"),
    "ms_per_query": ("ms/query", ".1f"),
    "ms_localizing": ("+ ms to localize", ".0f"),
    "regions_per_image": ("regions/image", ".1f"),
    "dimension": ("dimension", "d"),
    "index_mb": ("index MB", ".1f"),
}


def write_table(rows: Sequence[dict], dataset: Dataset, output_dir: Path, k: int) -> str:
    """Write `table.json` and `table.md`, and return the latter's text.

    Args:
        rows: from `engine_rows`, of one or several engines.
        dataset: that they were measured on.
        output_dir: where the two files go; made if it is not there.
        k: the cut of the metrics.
    """
    done = [row for row in rows if "reason" not in row]
    body = [[format(row[key], form) for key, (_, form) in _COLUMNS.items()] for row in done]
    heads = [head for head, _ in _COLUMNS.values()]
    text = (
        f"Search engines on {dataset.name}: {len(dataset.gallery)} images, "
        f"{len(dataset.queries)} queries. AP and mIoU of the first {k} ranks, in percent.\n\n"
        + tabulate(body, heads, tablefmt="pipe", disable_numparse=True)
        + "\n"
    )
    for row in rows:
        if "reason" in row:
            text += f"\nNot measured: {row['engine']}: {row['reason']}\n"
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomic(output_dir / "table.json", {"dataset": dataset.name, "k": k, "rows": rows})
    (output_dir / "table.md").write_text(text, encoding="utf-8")
    return text
