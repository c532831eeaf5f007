#!/usr/bin/env python
"""Build INS-SOT, a dataset in our folder format, out of LaSOT and GOT-10k trees.

Instance-335's recipe: python datasets/prepare_ins_sot.py --root LaSOT GOT-10k/train \\
    --split test --out $DETECTRON2_DATASETS/ins/sot_335
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from spil_d2.data.datasets.ins_sot import RECIPES, SPLITS, Recipe, build_ins_sot


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, nargs="+", required=True, help="trees of LaSOT or GOT-10k")
    add("--out", type=Path, required=True, help="folder of the dataset, e.g. ROOT/ins/sot_335")
    add(
        "--split",
        choices=SPLITS,
        default="all",
        help="train: 251 tracks of 231 frames, test: 335 of 122, never the same tracks; all: every "
        "track, 231 frames",
    )
    add("--tracks", type=int, default=None, help="another number of tracks")
    add("--frames", type=int, default=None, help="another number of frames a track")
    add("--seed", type=int, default=0, help="of the split and the choice of tracks")
    add("--copy", action="store_true", help="copy the pictures (default: hard links)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the dataset; returns the exit code."""
    args = parse_args(argv)
    default_tracks, default_frames = RECIPES[args.split]
    tracks = default_tracks if args.tracks is None else args.tracks
    frames = default_frames if args.frames is None else args.frames
    recipe = Recipe(args.split, tracks, frames, args.seed, args.copy)
    build_ins_sot(args.root, args.out, recipe)
    print(f"{args.out} is complete; check it with: python tools/check_dataset.py {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
