"""What `growth` measures: each function runs in a process of its own, on a gallery of one size.

Shape shorthand: I images, R regions, D numbers of an embedding, Q queries.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model

from ... import config
from ...data.datasets.instance_search import load_gallery, load_queries
from ...data.region_crops import Region
from ...retrieval import Regions, SearchEngine, open_region_index, write_index
from ...selftrain.clustering import ClusteringSettings, cluster_regions
from ...selftrain.seed_search import SeedSearch
from ...selftrain.similarity_sampling import pool_of_regions
from ...structures import Query, RegionLists
from ...utils.allocator import keep_freed_memory
from ..cycle_models import CycleConfigs
from ..index_benchmark import REGIONS_PER_IMAGE, SyntheticGallery
from ..localizer import Localizer, LocalizerSettings
from ..presets import resolve_config
from ..ranker_inference import EmbedderSettings, RegionEmbedder
from ..region_search import best_boxes, localize_queries, rank_regions
from ..search_stage import open_index, search_dataset
from ..seed_stage import make_seeds
from ..self_training_build import build_self_training
from .clustering import SyntheticRegions
from .comparison import Stopwatch

_NAME = "growth"
# Similarities do not depend on what else the gallery holds; pictures are decoded here, so that the
# time they take is counted.
_OPTIONS = [
    *("SEARCH.CENTRED", False, "SEARCH.NUM_WORKERS", 0, "DATALOADER.NUM_WORKERS", 0),
    *("SEARCH.KRECIPROCAL.ENABLED", False, "SEARCH.MIN_SIMILARITY", -1.0),
]
# A box depends on query and image alone, and all candidates are pseudo labels, so that masks are
# made of all.
_STAGE = [
    *("SEARCH.TOP_K", 10, "SPIL.TRAIN_TOP_K", 4, "SPIL.STAGE_TOP_K", 10),
    *("MODEL.QUERY.TEST_KERNEL", "query_only", "SPIL.TAU", [0.01] * 4),
]
# A seed an image, the same one whatever else the gallery holds.
_ROUND = [
    *("CST.SEEDS.SOURCES", ["grid"], "CST.SEEDS.NUM", 1_000_000, "CST.SEEDS.TOP_K", 1),
    *("CST.BOXES_PER_IMAGE", 1, "SEARCH.TOP_K", 5),
]
_SMALL = [
    *("MODEL.EFFICIENTNET.VARIANT", "lite0", "MODEL.BF16", "off", "SEARCH.LONGER_SIDE", 96),
    *("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128, "MODEL.QUERY.CROP_SIZE", 64),
]
_SMALL_RANKER = ["CST.RANKER.CONFIG", "quick_schedules/ranker_tiny_instant_test.yaml"]
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_QUERY_PART = 8
_LIST_LENGTH = 128

Outputs = dict[Any, np.ndarray]


@dataclass(frozen=True)
class Step:
    """What a measured part has done.

    Attributes:
        seconds: of the processor on a CPU, that passed elsewhere; setting up left out.
        own_mib: most memory of the process that no file backs; pages of mapped files may be
            dropped at any time, as they lie on the disk.
        outputs: of what the smallest gallery holds, by names that are the same in all galleries.
        counts: of what was worked on.
    """

    seconds: float
    own_mib: float
    outputs: Outputs
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictures:
    """A gallery of real or generated pictures.

    Attributes:
        root: folder of an instance-search data set.
        folder: for the index and whatever else is written.
        count: of images: the first of a random order that is always the same. Where there are
            fewer pictures, they come again under other ids.
        common: images of the smallest gallery; what is compared is about them.
        presets: of SPIL's localizer, and of CST with the search.
        options: KEY VALUE ... for both.
        device: "cpu", "cuda", ...
        is_small: with the smallest networks.
        threads: of PyTorch.
    """

    root: Path
    folder: Path
    count: int
    common: int
    presets: tuple[Path, Path]
    options: tuple[str, ...]
    device: str
    is_small: bool
    threads: int

    def gallery(self) -> list[dict]:
        """Detectron2 dicts with the ids 1 to `count`."""
        pictures = load_gallery(self.root, self.root.name)
        order = np.random.default_rng(0).permutation(len(pictures)).tolist()
        chosen = (pictures[order[i % len(order)]] for i in range(self.count))
        return [
            {**one, "image_id": number, "annotations": []} for number, one in enumerate(chosen, 1)
        ]

    def queries(self) -> list[Query]:
        """One for each `_QUERY_PART` images, with the ids 1, 2, ...; as with pictures."""
        known = load_queries(self.root)
        chosen = (known[i % len(known)] for i in range(max(1, self.count // _QUERY_PART)))
        return [
            Query(number, tuple(replace(one, image_id=None) for one in query.references))
            for number, query in enumerate(chosen, 1)
        ]

    def config(self, place: int, options: Sequence[Any]) -> Any:
        """Of the preset in `place` of `presets`."""
        cfg = config.get_cfg()
        cfg.merge_from_file(str(self.presets[place]))
        small = [*_SMALL, *(_SMALL_RANKER if place else ())] if self.is_small else []
        cfg.merge_from_list([*_OPTIONS, *small, "MODEL.DEVICE", self.device])
        cfg.merge_from_list([*self.options, *options])
        resolve_config(cfg)
        return cfg


@dataclass(frozen=True)
class MadeUp:
    """A gallery of regions without pictures; the smaller ones are parts of the largest.

    Attributes:
        source: file of embeddings (R, D) float16, `REGIONS_PER_IMAGE` an image.
        folder: for the index.
        count, common: images, as in `Pictures`; regions, where these are clustered.
        largest: of the largest gallery.
        dimension: D.
        threads: of PyTorch.
    """

    source: Path
    folder: Path
    count: int
    common: int
    largest: int
    dimension: int
    threads: int

    @property
    def synthetic(self) -> SyntheticGallery:
        """What the file is drawn from."""
        return SyntheticGallery(REGIONS_PER_IMAGE * self.largest, self.dimension)


Gallery = Pictures | MadeUp


def run(way: Callable[[Any], Any], part: Gallery) -> Any:
    """Call a function of this module, in a process that is set up as the programs are."""
    if isinstance(part, Pictures):
        keep_freed_memory()
    torch.set_num_threads(part.threads)
    return way(part)


def draw_regions(part: MadeUp) -> None:
    """Write the file of embeddings."""
    found = [one.embeddings for _, some in part.synthetic.batches() for one in some]
    np.save(part.source, np.concatenate(found).astype(np.float16))


def index_pictures(part: Pictures) -> Step:
    """Decode pictures, find and embed their regions, write the index."""
    cfg, gallery = part.config(1, _ROUND), part.gallery()
    index, (seconds, own_mib) = _measure(part, lambda: open_index(cfg, _NAME, gallery, part.folder))
    ids = range(1, part.common + 1)
    outputs: Outputs = {i: index.regions_of(i).embeddings for i in ids}
    return Step(seconds, own_mib, outputs, {"regions": index.num_regions})


def index_made_up(part: MadeUp) -> Step:
    """Write the index of regions that need no network."""
    records = [{"image_id": i, "file_name": str(i)} for i in range(part.count)]
    embeddings = np.load(part.source, mmap_mode="r", allow_pickle=False)
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (REGIONS_PER_IMAGE, 1))

    def regions(name: str) -> Regions:
        start = REGIONS_PER_IMAGE * int(name)
        rows = embeddings[start : start + REGIONS_PER_IMAGE].astype(np.float32)
        return Regions(boxes, boxes[:, 2], rows)

    def some(files: Sequence[Sequence[str]]) -> Iterable[list[Regions]]:
        return ([regions(name) for name in one] for one in files)

    _, (seconds, own_mib) = _measure(
        part, lambda: write_index(_NoEngine(), records, part.folder, map_batches=some)
    )
    with open_region_index(part.folder) as index:
        outputs: Outputs = {i: index.regions_of(i).embeddings for i in range(0, part.common, 100)}
        return Step(seconds, own_mib, outputs, {"regions": index.num_regions})


def search_made_up(part: MadeUp) -> Step:
    """Rank the images for 200 queries that come together."""
    queries = part.synthetic.queries()
    ids = list(range(len(queries)))
    length = min(_LIST_LENGTH, part.common // 2)
    with open_region_index(part.folder) as index:
        lists, (seconds, own_mib) = _measure(part, lambda: index.search(ids, queries, length))
    outputs: Outputs = {}
    for one in lists.lists:
        for image_id, similarity, box in zip(one.image_ids, one.similarities, one.boxes):
            outputs[one.query_id, int(image_id)] = np.array([similarity, *box], np.float64)
    return Step(seconds, own_mib, outputs, {"queries": len(queries)})


def make_stage(part: Pictures) -> Step:
    """Localize all rank lists, select and refine pseudo labels, and make their masks."""
    gallery, queries = part.gallery(), part.queries()
    search = part.config(1, [])
    search.SEARCH.TOP_K = part.config(0, _STAGE).SEARCH.TOP_K
    lists = search_dataset(search, _NAME, gallery, queries, part.folder)
    cfg = part.config(0, _STAGE)
    torch.manual_seed(0)
    training = build_self_training(
        cfg,
        build_model(cfg),
        gallery,
        queries,
        lists,
        None,
        directory=part.folder / "stages",
        fingerprint=_NAME,
    )
    training.pool(0, 0)
    pool, (seconds, own_mib) = _measure(part, lambda: training.pool(1, 0))
    localized = training.localized(1)
    counts = {
        "queries": len(queries),
        "pairs": sum(map(len, localized.lists)),
        "images_localized": len({int(i) for one in localized.lists for i in one.image_ids}),
        "targets": pool.num_targets,
    }
    outputs: Outputs = {
        (one.query_id, int(image_id)): np.array([*box, p])
        for one in localized.lists
        if one.probabilities is not None
        for image_id, box, p in zip(one.image_ids, one.boxes, one.probabilities)
        if image_id <= part.common and one.query_id <= max(1, part.common // _QUERY_PART)
    }
    return Step(seconds, own_mib, outputs, counts)


def make_round(part: Pictures) -> Step:
    """Localize and rank the seeds' shortlists, make the pool, embed and cluster regions."""
    cfg, gallery = part.config(1, _ROUND), part.gallery()
    files = {one["image_id"]: one for one in gallery}
    seeds = make_seeds(cfg, gallery, part.folder / "seeds").queries(files)
    shortlists = search_dataset(cfg, _NAME, gallery, seeds, part.folder)
    torch.manual_seed(0)
    configs = CycleConfigs.from_config(cfg)
    settings = LocalizerSettings.from_config(configs.localizer_round)
    localizer = Localizer(build_model(configs.localizer_round), gallery, seeds, settings)
    ranker = build_model(configs.ranker_round)
    embedder = RegionEmbedder(ranker, EmbedderSettings.from_config(configs.ranker_round))
    search = SeedSearch(
        files,
        scope="shortlist",
        shortlist_length=cfg.SEARCH.TOP_K,
        shortlist=lambda seed, length: shortlists[seed.id].image_ids[:length],
    )

    def way() -> tuple[RegionLists, int]:
        wanted = search.plan(seeds, 1).by_image()
        found = localize_queries(localizer, seeds, wanted)
        assert found is not None, "there is one process"
        found = best_boxes(found, cfg.CST.BOXES_PER_IMAGE)
        lists = rank_regions(found, embedder, seeds, gallery, cfg.CST.SHARE_IOU)
        pool_of_regions(seeds, lists, round_index=1, top_k=cfg.CST.SAMPLING.TOP_K)
        heads = lists.top(cfg.CST.CLUSTERING.TOP_K).lists
        image_ids = np.concatenate([one.image_ids for one in heads])
        boxes = np.concatenate([one.boxes for one in heads])
        regions = [Region(files[i]["file_name"], tuple(box)) for i, box in zip(image_ids, boxes)]
        eps = ClusteringSettings(eps=cfg.CST.CLUSTERING.EPS)
        return lists, len(cluster_regions(embedder.embed(regions), image_ids, boxes, eps))

    (lists, clustered), (seconds, own_mib) = _measure(part, way)
    counts = {"seeds": len(seeds), "boxes": sum(map(len, lists.lists)), "clustered": clustered}
    return Step(seconds, own_mib, _round_outputs(lists, seeds, part.common), counts)


def cluster_made_up(part: MadeUp) -> Step:
    """DBSCAN of as many regions as `count` says; smaller ones are parts of the largest."""
    identities = max(1, part.largest // 8)
    arrays = SyntheticRegions(part.largest, part.dimension, identities).arrays()
    some = [one[: part.count].copy() for one in arrays]
    del arrays
    clusters, (seconds, own_mib) = _measure(
        part, lambda: cluster_regions(*some, ClusteringSettings())
    )
    # More regions may join two clusters and part none: a region stays with the first of its own.
    fewer = cluster_regions(*(one[: part.common] for one in some), ClusteringSettings()).labels
    first = {label: i for i, label in reversed(list(enumerate(fewer.tolist())))}
    outputs: Outputs = {
        i: np.array([clusters.labels[i] != clusters.labels[first[label]]], np.float64)
        for i, label in enumerate(fewer.tolist())
        if label >= 0
    }
    return Step(seconds, own_mib, outputs, {"clusters": clusters.num_clusters})


class _NoEngine(SearchEngine):
    """Stands where regions come from elsewhere."""

    def regions(self, images: Sequence[np.ndarray]) -> list[Regions]:
        raise NotImplementedError("regions are made up")

    def embed(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        raise NotImplementedError("embeddings are made up")


def _round_outputs(lists: RegionLists, seeds: Sequence[Query], common: int) -> Outputs:
    """The boxes that the localizer thinks most of, by the seed's image and the image."""
    outputs: Outputs = {}
    for seed in seeds:
        one = lists[seed.id]
        assert one.localizer_scores is not None, "boxes of a localizer have its scores"
        own = seed.primary.image_id
        for row in np.argsort(one.localizer_scores, kind="stable"):
            image_id = int(one.image_ids[row])
            if own is not None and max(image_id, own) <= common:
                outputs[own, image_id] = one.boxes[row].astype(np.float64)
    return outputs


def _measure(part: Gallery, way: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What `way` returns, its seconds, and the process's own memory in MiB."""
    watch = Stopwatch(torch.device(getattr(part, "device", "cpu")))
    with _OwnMemory() as memory:
        result = watch.time(way)
    return result, (watch.counted[0], memory.peak_mib)


class _OwnMemory:
    """The most memory of this process that no file backs, looked at many times a second."""

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _OwnMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
            self.peak_mib = max(self.peak_mib, (resident - shared) * _PAGE_MIB)
            if self._ended.wait(0.01):
                return
