#!/usr/bin/env python3
"""Measure the speed of the localizer.

    python tools/benchmark.py multi_query
    python tools/benchmark.py multi_query --device cuda --output OUT.json \\
        --preset Base-CST.yaml --opts MODEL.WEIGHTS W.pth

multi_query: 16 queries on one gallery image, encoded once and batched, against 16 full passes, in
one run and with the boxes compared. Weights are random where none are given, which a ResNet with
frozen normalization cannot be run with. Prints the result as JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from detectron2.utils.logger import setup_logger

from spil_d2.engine.benchmarks import BENCHMARKS, BenchmarkSettings
from spil_d2.utils.artifacts import write_json_atomic

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PRESETS = ["Base-SPIL-tiny.yaml", "Base-CST-tiny.yaml"]


def main(argv: list[str] | None = None) -> dict:
    """Run a benchmark; returns its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(BENCHMARKS))
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    parser.add_argument("--output", type=Path, help="write the result there, too")
    parser.add_argument(
        "--preset", nargs="+", default=PRESETS, help=f"files of {CONFIGS.name}/: {PRESETS}"
    )
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ...")
    args = parser.parse_args(argv)
    files = [CONFIGS / name for name in args.preset]
    if unknown := [path.name for path in files if not path.is_file()]:
        parser.error(f"--preset {' '.join(unknown)}: no such file in {CONFIGS}")
    setup_logger(name="spil_d2")
    result = BENCHMARKS[args.name](
        BenchmarkSettings(
            config_files=tuple(files),
            device=args.device,
            options=tuple(args.opts),
            repeats=args.repeats,
            num_queries=args.queries,
        )
    )
    print(json.dumps(result, indent=2))
    if args.output:
        write_json_atomic(args.output, result)
    return result


if __name__ == "__main__":
    main()
