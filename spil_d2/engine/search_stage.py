"""The search engine's rank lists as an artefact that is built once and reused."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.utils import comm
from tqdm import tqdm

from ..retrieval import (
    RegionIndex,
    SearchEngine,
    build_search_engine,
    open_region_index,
    search,
    write_index,
)
from ..retrieval.search import SearchSettings, read_rgb
from ..structures import Query, RankLists
from ..utils.artifacts import check_fingerprint, fingerprint, is_published, publish_directory
from .index_config import engine_fingerprint
from .parallel_index import map_regions, num_index_workers

logger = logging.getLogger(__name__)

RANK_LISTS = "rank_lists.npz"
# Of the index directory: one of an older format is not found, and built again.
_INDEX_FORMAT = 2


def search_dataset(
    cfg, name: str, gallery: Sequence[dict], queries: Sequence[Query], output_dir: str | Path
) -> RankLists:
    """Rank lists of all queries of a dataset; all processes return the same.

    The index lies in `output_dir/index/NAME-FINGERPRINT/` or in SEARCH.INDEX_DIR, the rank lists
    in `output_dir/search/NAME-FINGERPRINT/`; what is there already is loaded.

    Args:
        cfg: SEARCH, MODEL.BACKBONE etc. of the engine; SEARCH.RANK_LISTS stands for the search of
            the training dataset.
        name: of the dataset.
        gallery: its Detectron2 dicts.
        queries: its queries.
        output_dir: of the run.
    """
    if cfg.SEARCH.RANK_LISTS and name == cfg.DATASETS.TRAIN[0]:
        return _given_lists(Path(cfg.SEARCH.RANK_LISTS), gallery, queries)
    index_dir, index_key = _index_place(cfg, name, gallery, output_dir)
    query_key = fingerprint(
        {
            "index": index_key,
            "top_k": cfg.SEARCH.TOP_K,
            "reranking": [dict(cfg.SEARCH.QE), dict(cfg.SEARCH.KRECIPROCAL)],
            "queries": [[q.id, *[(r.file_name, r.box) for r in q.references]] for q in queries],
        }
    )
    folder = Path(output_dir) / "search" / f"{name}-{query_key}"
    if comm.is_main_process() and not is_published(folder):
        lists = _search(cfg, name, gallery, queries, index_dir, index_key, cfg.SEARCH.TOP_K)
        publish_directory(
            folder,
            lambda path: _write(path, lists),
            {"dataset": name, "engine": cfg.SEARCH.ENGINE, "fingerprint": query_key},
        )
    comm.synchronize()
    check_fingerprint(folder, query_key)
    lists = RankLists.load(folder / RANK_LISTS)
    _warn_if_poor(lists, cfg.SEARCH.MIN_SIMILARITY)
    return lists


def search_again(
    cfg,
    name: str,
    gallery: Sequence[dict],
    queries: Sequence[Query],
    output_dir: str | Path,
    top_k: int,
) -> RankLists:
    """Rank lists of other queries in the index of `search_dataset`; main process only.

    They are searched as the dataset's own queries are, and written nowhere.

    Args:
        cfg, name, gallery, output_dir: as for `search_dataset`.
        queries: what to search for.
        top_k: length of the lists, at most.
    """
    index_dir, index_key = _index_place(cfg, name, gallery, output_dir)
    return _search(cfg, name, gallery, queries, index_dir, index_key, top_k)


def open_index(cfg, name: str, gallery: Sequence[dict], output_dir: str | Path) -> RegionIndex:
    """The index that `search_dataset` has built, or builds now (main process only)."""
    index_dir, key = _index_place(cfg, name, gallery, output_dir)
    if not is_published(index_dir):
        _build(cfg, build_search_engine(cfg), name, gallery, index_dir, key)
    return open_region_index(index_dir)


def _index_place(
    cfg, name: str, gallery: Sequence[dict], output_dir: str | Path
) -> tuple[Path, str]:
    pictures = [(one["image_id"], one["file_name"], *_stamp(one["file_name"])) for one in gallery]
    key = fingerprint(
        {
            "format": _INDEX_FORMAT,
            "engine": engine_fingerprint(cfg),
            "is_centred": cfg.SEARCH.CENTRED,
            "gallery": pictures,
        }
    )
    folder = Path(cfg.SEARCH.INDEX_DIR or Path(output_dir) / "index")
    return folder / f"{name}-{key}", key


def _stamp(file_name: str) -> tuple[int, int]:
    """Size and time of a file, by which a changed picture is noticed."""
    try:
        status = Path(file_name).stat()
    except OSError as error:
        raise ValueError(
            f"{file_name} cannot be read ({error}): run tools/check_dataset.py on the dataset"
        ) from error
    return status.st_size, status.st_mtime_ns


def _search(
    cfg,
    name: str,
    gallery: Sequence[dict],
    queries: Sequence[Query],
    index_dir: Path,
    key: str,
    top_k: int,
) -> RankLists:
    engine = build_search_engine(cfg)
    if not is_published(index_dir):
        _build(cfg, engine, name, gallery, index_dir, key)
    index = open_region_index(index_dir)
    logger.info("searching %d regions of %d images", index.num_regions, len(index))
    files = {int(one["image_id"]): one["file_name"] for one in gallery}
    return search(
        engine,
        index,
        queries,
        top_k,
        settings=SearchSettings.from_config(cfg),
        read_image=lambda image_id: read_rgb(files[image_id]),
    )


def _build(
    cfg, engine: SearchEngine, name: str, gallery: Sequence[dict], index_dir: Path, key: str
) -> None:
    logger.info("%s indexes the %d images of %s", cfg.SEARCH.ENGINE, len(gallery), name)
    workers = num_index_workers(cfg)
    facts = {"dataset": name, "engine": cfg.SEARCH.ENGINE, "fingerprint": key}
    with tqdm(total=len(gallery), desc="indexing", unit="image") as bar:

        def write(path: Path) -> None:
            write_index(
                engine,
                gallery,
                path,
                lambda done, _: bar.update(done - bar.n),
                is_centred=cfg.SEARCH.CENTRED,
                map_batches=(lambda files: map_regions(cfg, files, workers)) if workers else None,
            )

        publish_directory(index_dir, write, {**facts, "images": len(gallery)})


def _given_lists(path: Path, gallery: Sequence[dict], queries: Sequence[Query]) -> RankLists:
    lists = RankLists.load(path)
    known = {int(one["image_id"]) for one in gallery}
    unknown = {int(i) for one in lists.lists for i in one.image_ids} - known
    if unknown:
        raise ValueError(
            f"SEARCH.RANK_LISTS {path} ranks {len(unknown)} images that the gallery does not "
            f"hold, e.g. {sorted(unknown)[:5]}: it is of another dataset"
        )
    missing = [query.id for query in queries if query.id not in lists]
    if missing:
        raise ValueError(
            f"SEARCH.RANK_LISTS {path} has no list for {len(missing)} queries, e.g. {missing[:5]}"
        )
    return lists


def _write(path: Path, lists: RankLists) -> None:
    lists.save(path / RANK_LISTS)
    (path / "coco_results.json").write_text(json.dumps(lists.to_coco_results()))


def _warn_if_poor(lists: RankLists, floor: float) -> None:
    """Self-paced training assumes a search of mAP >= 0.5, which similarities hint at."""
    top = [float(one.similarities[:10].mean()) for one in lists.lists if len(one)]
    if not top:
        raise ValueError("the search returned nothing: the gallery is empty")
    median = float(np.median(top))
    logger.info("median over queries of the mean similarity of the first 10: %.3f", median)
    if median < floor:
        logger.warning(
            "that is below SEARCH.MIN_SIMILARITY = %.3f: most ranked images may be wrong, and "
            "self-paced training learns from them; try another SEARCH.ENGINE",
            floor,
        )
