#!/usr/bin/env python3
"""Measure a part of the project against a naive reference, on the same inputs and in one run.

    python tools/benchmark.py dasr
    python tools/benchmark.py multi_query --device cuda --output OUT.json \\
        --preset Base-CST.yaml --opts MODEL.WEIGHTS W.pth

multi_query   queries on one picture, encoded once and batched; against a full pass for each
cache         a shortlist again, its maps being kept on disk; against the first pass
training      an iteration of SPIL; against Mask R-CNN R50-FPN, and in parts or mixed precision
growth        index, search, stage and round as the gallery grows; against linear growth
dasr          salient regions of all peaks together, and traced less far; against a backward a peak
coattention   pseudo masks by power iteration; against the covariance and its eigenvectors
evaluation    INS-PRW with 30,000 boxes a query, and DBSCAN of 200,000 regions; against loops
search        the index backends; against a loop over the queries

Prints a table and writes JSON: ratio, reference_seconds, our_seconds, max_abs_diff and device of
each case under "rows", and those of the first case at the top. Seconds are medians of processor
seconds on a CPU. docs/PERFORMANCE.md explains the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.utils.logger import setup_logger

from spil_d2.engine.benchmarks import (
    BENCHMARKS,
    PRESETS,
    SIZES,
    BenchmarkSettings,
    format_table,
    run_benchmark,
)
from spil_d2.utils.allocator import keep_freed_memory
from spil_d2.utils.artifacts import write_json_atomic

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(argv: list[str] | None = None) -> dict:
    """Run a benchmark; returns its report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(BENCHMARKS))
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    parser.add_argument("--size", choices=SIZES, default="full", help="small: seconds, no figures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of both ways on a CPU (default 1)")
    parser.add_argument("--output", type=Path, help="write the report there, as JSON")
    parser.add_argument(
        "--preset", nargs="+", help=f"files of {CONFIGS.name}/ instead of the benchmark's own"
    )
    parser.add_argument("--queries", type=int, default=16, help="of multi_query (default 16)")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    args = parser.parse_args(argv)
    files = [CONFIGS / name for name in args.preset or PRESETS.get(args.name, ())]
    if unknown := [path.name for path in files if not path.is_file()]:
        parser.error(f"--preset {' '.join(unknown)}: no such file in {CONFIGS}")
    setup_logger(name="spil_d2")
    keep_freed_memory()
    settings = BenchmarkSettings(
        device=args.device,
        size=args.size,
        repeats=args.repeats,
        threads=args.threads,
        config_files=tuple(files),
        options=tuple(args.opts),
        num_queries=args.queries,
    )
    result = run_benchmark(args.name, settings)
    print(format_table(result))
    if args.output:
        write_json_atomic(args.output, result)
    return result


if __name__ == "__main__":
    main()
