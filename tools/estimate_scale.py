#!/usr/bin/env python3
"""Compute what galleries of any size need, from parts that were measured on small ones.

    python tools/estimate_scale.py
    python tools/estimate_scale.py --images 1e6 1e7 --engine tiny --queries 200 --hours 8

Prints a table with a column for each size. Every figure is a measured part times a count: nothing
of these sizes was run. docs/SCALE.md says how the parts were measured, what they leave out, and
which engine carries each part.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

from tabulate import tabulate


class Engine(NamedTuple):
    """A search engine of `configs/search/`, measured by tools/compare_engines.py.

    Attributes:
        images_per_second: indexed by one core.
        regions: of an image.
        dimension: of an embedding.
        query_seconds: until the query is embedded and 983 images are ranked.
    """

    images_per_second: float
    regions: float
    dimension: int
    query_seconds: float


# python tools/compare_engines.py --dataset ins_instre_dev (docs/MEASUREMENTS.md)
ENGINES = {
    "best": Engine(6.0, 44.0, 2048, 0.190),
    "dasr": Engine(2.7, 4.3, 1400, 0.117),
    "tiny": Engine(5.1, 19.0, 1400, 0.256),
    "gem": Engine(5.0, 1.0, 1024, 0.201),
}
# What the exact and the FAISS index write: half precision; a box, a saliency and a length in single
# precision; an id and an offset an image. FAISS writes an id and a place a region, too.
BYTES_A_VALUE = 2
TABLE_BYTES_A_REGION, TABLE_BYTES_AN_IMAGE = 24, 16
FAISS_ID_BYTES, FAISS_PLACE_BYTES = 8, 8

# python tools/benchmark_index.py output/index_benchmark --backends exact faiss --probed 0.12:
# seconds of a query alone, in a million regions of 512 dimensions (docs/MEASUREMENTS.md)
FAISS_SECONDS, FAISS_REGIONS, FAISS_DIMENSION, FAISS_PROBED = 0.0289, 1_000_000, 512, 0.12


class Localizer(NamedTuple):
    """Seconds of one core.

    Attributes:
        image: to encode a gallery image.
        pair: for what follows a query's kernel on it.
    """

    image: float
    pair: float


# python tools/benchmark.py multi_query (docs/PERFORMANCE.md), 16 queries: the reference takes
# 16 (image + pair) and ours image + 16 pair.
SPIL_LOCALIZERS = {"tiny": Localizer(0.077, 0.0045), "fast": Localizer(0.84, 0.087)}
CST_LOCALIZER = Localizer(0.084, 0.0044)

# python tools/benchmark.py growth (docs/PERFORMANCE.md): what the stage and the round take beside
# the localizer, for a pseudo label (crops, GrabCut, co-attention mask) and for an embedded box.
TARGET_SECONDS, BOX_SECONDS = 0.10, 0.0070
# python tools/benchmark.py evaluation (docs/PERFORMANCE.md): twice the regions take four times.
DBSCAN_SECONDS, DBSCAN_REGIONS = 350.0, 200_000
# Of objects in memory, by tracemalloc: a Detectron2 record and its place in a dictionary; the box
# of a query in an image, before it is part of a rank list.
RECORD_BYTES, PAIR_BYTES = 400, 320
EMBEDDING_BYTES = 4 * 512


class Workload(NamedTuple):
    """What is asked for.

    Attributes:
        images: of the gallery.
        engine: one of `ENGINES`.
        localizer: one of `SPIL_LOCALIZERS`.
        queries, top_k, targets: of a self-paced stage: queries, length of a rank list, and pseudo
            labels of a query.
        seeds, shortlist, boxes, clustered: of a CST round: seeds, images that each is searched in,
            boxes of an image that are ranked, and regions of a seed that are clustered.
        hours, cores: in which the gallery is indexed, and those of one machine.
        probed: part of the FAISS lists that a query looks into.
        latency: seconds that a search may take beside embedding the query.
    """

    images: float
    engine: str = "dasr"
    localizer: str = "tiny"
    queries: int = 1_000
    top_k: int = 128
    targets: int = 6
    seeds: int = 30_000
    shortlist: int = 100
    boxes: int = 5
    clustered: int = 5
    hours: float = 24.0
    cores: int = 32
    probed: float = 0.12
    latency: float = 0.5


def estimate(work: Workload) -> dict[str, float]:
    """All figures, in seconds of one core, bytes and counts, by the names of `ROWS`."""
    return {**_index(work), **_search(work), **_stage(work), **_round(work)}


def _index(work: Workload) -> dict[str, float]:
    engine = ENGINES[work.engine]
    seconds = work.images / engine.images_per_second
    regions = work.images * engine.regions
    table = TABLE_BYTES_A_REGION * regions + TABLE_BYTES_AN_IMAGE * work.images
    return {
        "index_seconds": seconds,
        "index_machines": math.ceil(seconds / (3600 * work.hours * work.cores)),
        "regions": regions,
        "disk_bytes": BYTES_A_VALUE * engine.dimension * regions + table,
        "table_bytes": table,
    }


def _search(work: Workload) -> dict[str, float]:
    engine = ENGINES[work.engine]
    regions = work.images * engine.regions
    products = regions * engine.dimension * work.probed
    seconds = FAISS_SECONDS * products / (FAISS_REGIONS * FAISS_DIMENSION * FAISS_PROBED)
    return {
        "scan_seconds": seconds,
        "query_seconds": engine.query_seconds,
        "search_cores": math.ceil(seconds / work.latency),
        "faiss_bytes": (FAISS_ID_BYTES + FAISS_PLACE_BYTES) * regions,
    }


def _stage(work: Workload) -> dict[str, float]:
    pairs = work.queries * work.top_k
    shown = min(work.images, pairs)
    localizer = SPIL_LOCALIZERS[work.localizer]
    labels = TARGET_SECONDS * work.queries * work.targets
    return {
        "stage_images": shown,
        "stage_seconds": localizer.image * shown + localizer.pair * pairs + labels,
        "stage_bytes": RECORD_BYTES * shown + PAIR_BYTES * pairs,
    }


def _round(work: Workload) -> dict[str, float]:
    pairs = work.seeds * work.shortlist
    shown = min(work.images, pairs)
    boxes = pairs * work.boxes
    clustered = work.seeds * work.clustered
    links = DBSCAN_SECONDS * (clustered / DBSCAN_REGIONS) ** 2
    embedded = BOX_SECONDS * (boxes + clustered)
    return {
        "round_images": shown,
        "round_seconds": CST_LOCALIZER.image * shown + CST_LOCALIZER.pair * pairs + embedded,
        "cluster_seconds": links,
        "round_bytes": RECORD_BYTES * shown + EMBEDDING_BYTES * (boxes + clustered),
    }


Format = Callable[[float], str]


def _hours(seconds: float) -> str:
    return f"{_short(seconds / 3600)} h"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{_short(count)} {unit}"
        count /= 1000
    return f"{_short(count)} PB"


def _seconds(seconds: float) -> str:
    return f"{_short(seconds)} s"


def _count(value: float) -> str:
    return _short(value) if value >= 100 else f"{value:,.0f}"


def _short(value: float) -> str:
    """Three digits, and separators of thousands."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{round(value, digits):,.{max(0, digits)}f}"


ROWS: dict[str, tuple[str, Format]] = {
    "index_seconds": ("index: CPU time", _hours),
    "index_machines": ("index: machines of {cores} cores for {hours:g} h", _count),
    "regions": ("index: regions", _count),
    "disk_bytes": ("index: disk", _size),
    "table_bytes": ("index: tables in the readers' memory", _size),
    "faiss_bytes": ("FAISS: ids and places, on top of both", _size),
    "query_seconds": ("search: embedding the query, one core", _seconds),
    "scan_seconds": ("search: FAISS lists ({probed:g} probed), CPU time", _seconds),
    "search_cores": ("search: cores, each with a shard, for {latency:g} s", _count),
    "stage_images": ("stage ({queries} queries x {top_k}): images at most", _count),
    "stage_seconds": ("stage: CPU time", _hours),
    "stage_bytes": ("stage: lists and records in memory", _size),
    "round_images": ("CST round ({seeds} seeds x {shortlist}): images at most", _count),
    "round_seconds": ("CST round: CPU time, regions", _hours),
    "cluster_seconds": ("CST round: CPU time, DBSCAN", _hours),
    "round_bytes": ("CST round: regions in memory, at most", _size),
}
"""Name of a figure -> what it is called, and how it is written."""


def table(workloads: list[Workload]) -> str:
    """A Markdown table with a column for each of the workloads, which differ in `images` alone."""
    figures = [estimate(one) for one in workloads]
    facts = workloads[0]._asdict()
    rows = [
        [label.format(**facts), *(write(one[name]) for one in figures)]
        for name, (label, write) in ROWS.items()
    ]
    header = [f"{facts['engine']} engine, {facts['localizer']} localizer"]
    header += [f"{one.images:,.0f} images" for one in workloads]
    align = ["left"] + ["right"] * len(workloads)
    return tabulate(rows, header, tablefmt="pipe", colalign=align, disable_numparse=True)


def main(argv: list[str] | None = None) -> list[Workload]:
    """Print the table; returns what it is of."""
    default = Workload(0)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=float, nargs="+", default=[1e6, 1e8, 1e10])
    parser.add_argument("--engine", choices=list(ENGINES), default=default.engine)
    parser.add_argument("--localizer", choices=list(SPIL_LOCALIZERS), default=default.localizer)
    for name, what in (
        ("queries", "of a self-paced stage"),
        ("top-k", "images of a query's rank list"),
        ("targets", "pseudo labels of a query"),
        ("seeds", "of a CST round"),
        ("shortlist", "images that a seed is searched in"),
        ("boxes", "of an image that are ranked for a seed"),
        ("clustered", "regions of a seed"),
        ("hours", "in which the gallery is indexed"),
        ("cores", "of a machine"),
        ("probed", "part of the FAISS lists that a query looks into"),
        ("latency", "seconds of a search beside embedding the query"),
    ):
        value = getattr(default, name.replace("-", "_"))
        help_text = f"{what} (default {value:g})"
        parser.add_argument(f"--{name}", type=type(value), default=value, help=help_text)
    args = vars(parser.parse_args(argv))
    sizes = args.pop("images")
    wrong = [name for name, value in args.items() if not isinstance(value, str) and value <= 0]
    if wrong or min(sizes) < 1:
        parser.error(f"{', '.join(wrong) or 'images'}: use numbers above 0, and 1 image or more")
    workloads = [Workload(images, **args) for images in sizes]
    print(table(workloads))
    return workloads


if __name__ == "__main__":
    main()
