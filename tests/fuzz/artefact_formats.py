"""Lists, pools, clusters, calibrations, configurations and indexes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util

from spil_d2 import get_cfg
from spil_d2.engine.calibration import Calibrator
from spil_d2.engine.file_table import INDEXED, NEW, FileTable, Outcome
from spil_d2.engine.folder_scan import ScannedFile
from spil_d2.engine.index_config import load_config
from spil_d2.engine.index_directory import CALIBRATION, CONFIG, FILES, REGIONS, FolderIndex
from spil_d2.retrieval import Regions
from spil_d2.retrieval.index import create_region_index, open_region_index
from spil_d2.retrieval.whitening import Whitening
from spil_d2.structures import (
    Candidate,
    ClusterAssignment,
    QueryPool,
    RankList,
    RankLists,
    RegionList,
    RegionLists,
    SamplePool,
    Target,
)
from spil_d2.utils.artifacts import file_sha256, write_json_atomic

from .base import Format
from .codecs import change_gzipped_json, change_json, change_npy, change_npz, change_yaml

_BOX = (1.0, 2.0, 9.0, 8.5)


def _rank_lists(folder: Path) -> None:
    ids, boxes = np.array([7, 3, 9]), np.tile(np.float32(_BOX), (3, 1))
    similarities = np.array([0.9, 0.5, 0.5], np.float32)
    lists = (
        RankList(1, ids, boxes, similarities, similarities),
        RankList(4, ids[:1], boxes[:1], similarities[:1], similarities[:1]),
    )
    RankLists(lists).save(folder / "lists.npz")


def _load_rank_lists(folder: Path) -> None:
    lists = RankLists.load(folder / "lists.npz")
    lists.top(2).to_coco_results()


def _region_lists(folder: Path) -> None:
    ids, boxes = np.array([7, 7, 9]), np.tile(np.float32(_BOX), (3, 1))
    similarities = np.array([0.9, 0.5, 0.5], np.float32)
    RegionLists((RegionList(1, ids, boxes, similarities),)).save(folder / "lists.npz")


def _pool(folder: Path) -> None:
    mask = mask_util.encode(np.asfortranarray(np.eye(12, 10, dtype=np.uint8)))
    rle = {"size": [12, 10], "counts": mask["counts"].decode()}
    target = Target(_BOX, 0.5, rle, ((_BOX, 0.5), (_BOX, 0.0)))
    candidates = (Candidate(7, _BOX, target), Candidate(3, _BOX))
    SamplePool(2, (QueryPool(1, Target(_BOX, 1.0), candidates),)).save(folder / "pool.json.gz")


def _load_pool(folder: Path) -> None:
    pool = SamplePool.load(folder / "pool.json.gz")
    for one in pool.queries:
        for target in (one.reference, *(candidate.target for candidate in one.candidates)):
            if target is not None and target.mask is not None:
                mask_util.decode(target.mask)
        one.support_view("two_views")


def _clusters(folder: Path) -> None:
    ClusterAssignment(np.array([0, 0, 1, -1, 0])).save(folder / "clusters.npz")


def _load_clusters(folder: Path) -> None:
    found = ClusterAssignment.load(folder / "clusters.npz")
    for cluster in range(found.num_clusters):
        found.members(cluster)


def _whitening(folder: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(9, 4))
    Whitening.fit(rows, 2).save(folder / "whitening.npz")


def _load_whitening(folder: Path) -> None:
    found = Whitening.load(folder / "whitening.npz")
    found.apply(np.ones((1, len(found.mean)), np.float32))


def _calibration(folder: Path) -> None:
    rows = np.eye(4, dtype=np.float16)
    Calibrator((0.0, 1.4, -2.2), True, 9, rows, np.array([0, 1, 4])).save(folder / "c.npz")


def _load_calibration(folder: Path) -> None:
    found = Calibrator.load(folder / "c.npz")
    similarities = np.maximum.reduceat(
        np.ones((1, len(found.embeddings)), np.float32), found.offsets[:-1], axis=1
    )
    found.probabilities(np.array([0.5, 0.1]), similarities[0], found.num_images)


def _config(folder: Path) -> None:
    base = "MODEL:\n  META_ARCHITECTURE: QueryRCNN\n  PIXEL_MEAN: [1.0, 2.0, 3.0]\nSEED: 3\n"
    (folder / "base.yaml").write_text(base)
    text = "_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 0.01\n  STEPS: (3, 4)\nSEARCH: {ENGINE: DASR}\n"
    (folder / "config.yaml").write_text(text)
    # As a dump has them, lists that are the same object are aliases.
    dump = "INPUT:\n  MIN_SIZE_TRAIN: &id001\n  - 4\n  MIN_SIZE_TRAIN_SAMPLING: choice\nDATASETS:\n"
    (folder / "dumped.yaml").write_text(dump + "  TRAIN: []\n  TEST: []\nSEED: -1\n")


def _load_config(folder: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.freeze()
    load_config(folder / "dumped.yaml")


def _index(backend: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        rng = np.random.default_rng(0)
        with create_region_index(backend, folder / "index", is_centred=True) as index:
            index.add(range(6), [_regions(rng) for _ in range(6)])
            index.persist()
            index.delete([2])
            index.persist()
        # One segment; its name is random.
        (segment,) = (folder / "index" / "segments").iterdir()
        head = (folder / "index" / "index.json").read_text()
        segment.rename(segment.with_name("000001-a"))
        (folder / "index" / "index.json").write_text(head.replace(segment.name, "000001-a"))

    return prepare


def _regions(rng: np.random.Generator) -> Regions:
    rows = rng.normal(size=(3, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Regions(np.tile(np.float32(_BOX), (3, 1)), np.ones(3, np.float32), rows)


def _load_index(folder: Path) -> None:
    with open_region_index(folder / "index") as index:
        ids = index.image_ids
        if len(ids):
            index.regions_of(int(ids[0]))
            index.search([5], np.ones((1, index.dimension), np.float32), 3, [[1]])


def _folder_index(folder: Path) -> None:
    place = folder / "index"
    place.mkdir()
    # Short, so that most of the time is not that of YAML's parser.
    (place / CONFIG).write_text("SEARCH: {ENGINE: DASR}\nSEED: 3\n")
    table = FileTable(place / FILES)
    table.update([ScannedFile("a.jpg", 5, 7), ScannedFile("b/c.jpg", 6, 8)])
    table.finish([Outcome(1, 30, 40, "")])
    facts = {"folder": "/pictures", "config_sha256": file_sha256(place / CONFIG)}
    write_json_atomic(place / "manifest.json", {**facts, "schema_version": 1})
    _calibration(folder)
    (folder / "c.npz").rename(place / CALIBRATION)
    _index("exact")(folder / "made")
    (folder / "made" / "index").rename(place / REGIONS)


def _load_folder_index(folder: Path) -> None:
    index = FolderIndex(folder / "index")
    index.files.count(NEW)
    for row in index.files.rows(INDEXED):
        index.files.by_path(row.path)
        (index.folder / row.path).suffix.lower()
    Calibrator.load(folder / "index" / CALIBRATION)
    index.open_regions().close()


_SEGMENT = "index/segments/000001-a"
ARTEFACTS = (
    Format("rank_lists", _rank_lists, {"lists.npz": change_npz}, _load_rank_lists),
    Format(
        "region_lists",
        _region_lists,
        {"lists.npz": change_npz},
        lambda folder: RegionLists.load(folder / "lists.npz"),
    ),
    Format("sample_pool", _pool, {"pool.json.gz": change_gzipped_json}, _load_pool),
    Format("clusters", _clusters, {"clusters.npz": change_npz}, _load_clusters),
    Format("whitening", _whitening, {"whitening.npz": change_npz}, _load_whitening),
    Format("calibration", _calibration, {"c.npz": change_npz}, _load_calibration),
    Format(
        "config",
        _config,
        {"config.yaml": change_yaml, "base.yaml": change_yaml, "dumped.yaml": change_yaml},
        _load_config,
    ),
    Format(
        "index_exact",
        _index("exact"),
        {
            "index/index.json": change_json,
            f"{_SEGMENT}/regions.npz": change_npz,
            f"{_SEGMENT}/embeddings.npy": change_npy,
        },
        _load_index,
    ),
    Format(
        "index_faiss",
        _index("faiss"),
        {
            "index/index.json": change_json,
            f"{_SEGMENT}/vectors.faiss": None,
            f"{_SEGMENT}/vectors.json": change_json,
        },
        _load_index,
    ),
    Format(
        "folder_index",
        _folder_index,
        {
            "index/manifest.json": change_json,
            f"index/{FILES}": None,
            f"index/{CONFIG}": change_yaml,
            f"index/{CALIBRATION}": change_npz,
        },
        _load_folder_index,
    ),
)
