#!/usr/bin/env python3
"""Measure the backends of the index of regions on synthetic regions.

python tools/benchmark_index.py output/index_benchmark
python tools/benchmark_index.py output/index_benchmark --regions 20000 --backends exact faiss

Writes table.md and table.json. For each backend: milliseconds a query, recall against the exact
backend (which is always measured, too), memory, size on the disk, time to build.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.utils.logger import setup_logger

from spil_d2.engine.index_benchmark import BackendResult, SyntheticGallery, benchmark_indexes
from spil_d2.retrieval.index import INDEX_BACKENDS


def main(argv: list[str] | None = None) -> list[BackendResult]:
    """Run the benchmark; returns its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder for the results")
    parser.add_argument("--regions", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512, help="dimensions of an embedding")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=128, help="length of the rank lists")
    parser.add_argument(
        "--backends", nargs="+", default=list(INDEX_BACKENDS), choices=list(INDEX_BACKENDS)
    )
    parser.add_argument(
        "--probed",
        nargs="+",
        type=float,
        help="settings of `probed` to measure FAISS with; by default its own",
    )
    parser.add_argument(
        "--milvus-regions",
        type=int,
        default=50_000,
        help="as many for Milvus at most: Milvus Lite is slow and large",
    )
    args = parser.parse_args(argv)
    setup_logger(name="spil_d2")
    runs = []
    for name in args.backends:
        most = args.milvus_regions if name == "milvus" else args.regions
        given = (args.probed or []) if name == "faiss" else []
        runs.append((name, [{"probed": one} for one in given] or [{}], most))
    gallery = SyntheticGallery(args.regions, args.dim, args.queries)
    results = benchmark_indexes(gallery, runs, args.output, args.k)
    print((args.output / "table.md").read_text())
    return results


if __name__ == "__main__":
    main()
