#!/usr/bin/env python
"""Build the embedded demo gallery as ROOT/ins/demo (data set `ins_demo`); nothing is downloaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from spil_d2.data.datasets.builtin import datasets_root
from spil_d2.data.datasets.synthetic import build_demo_gallery


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root(),
        help="root of data sets (default: $DETECTRON2_DATASETS, else ./datasets)",
    )
    parser.add_argument("--images-per-instance", type=int, default=9)
    parser.add_argument("--num-instances", type=int, default=None, help="default: all 16")
    parser.add_argument("--distractors", type=int, default=16, help="images without an instance")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the gallery; returns the exit code."""
    args = parse_args(argv)
    folder = args.root.expanduser() / "ins" / "demo"
    build_demo_gallery(
        folder,
        seed=args.seed,
        images_per_instance=args.images_per_instance,
        num_instances=args.num_instances,
        num_distractors=args.distractors,
    )
    print(f"{folder} is complete; check it with: python tools/check_dataset.py {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
