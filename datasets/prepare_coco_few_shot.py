#!/usr/bin/env python
"""Draw the shots of few-shot tasks from any COCO-format annotation file.

COCO's classes:    python datasets/prepare_coco_few_shot.py --annotations ANNOTATIONS.json \\
    --out cocosplit --split coco --shots 1 2 3 5 10 30 --seeds 0 1 2
one's own:         python datasets/prepare_coco_few_shot.py --annotations NAME/train.json \\
    --out NAME/shots --novel mug stapler --shots 1 5 10 --seeds 0 1 2
FewX's list:       python datasets/prepare_coco_few_shot.py --rule fewx --split coco \\
    --annotations coco/annotations/instances_train2017.json \\
    --out coco/new_annotations/final_split_voc_10_shot_instances_train2017.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from spil_d2.data.datasets.few_shot_classes import NOVEL_NAMES
from spil_d2.data.datasets.few_shot_prepare import write_fewx_list, write_shot_files


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--annotations", type=Path, required=True, help="COCO-format file with all the boxes")
    add("--out", type=Path, required=True, help="folder of shot files; with --rule fewx a file")
    novel = parser.add_mutually_exclusive_group(required=True)
    novel.add_argument(
        "--split",
        help=f"one of {sorted(NOVEL_NAMES)}, or a text file with a novel class in each line",
    )
    novel.add_argument("--novel", nargs="+", metavar="NAME", help="names of the novel classes")
    add(
        "--rule",
        choices=("tfa", "fewx"),
        default="tfa",
        help="tfa: whole images, K boxes a class; fewx: FewX's list of 10 images a class",
    )
    add("--shots", type=int, nargs="+", default=[1, 2, 3, 5, 10, 30])
    add("--seeds", type=int, nargs="+", default=[0])
    add("--overwrite", action="store_true", help="replace files that are there")
    return parser.parse_args(argv)


def novel_names(args: argparse.Namespace) -> list[str]:
    """The names that --novel or --split give.

    Raises:
        OSError: --split is neither a known split nor a file that can be read.
        ValueError: the file holds no name.
    """
    if args.novel:
        return args.novel
    if args.split in NOVEL_NAMES:
        return list(NOVEL_NAMES[args.split])
    path = Path(args.split)
    if not path.is_file():
        known = sorted(NOVEL_NAMES)
        raise FileNotFoundError(f"--split {args.split!r} is no file and none of {known}")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not any(names):
        raise ValueError(f"{path}: holds no names; write one novel class in each line")
    return [name for name in names if name]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the shots; returns the exit code."""
    args = parse_args(argv)
    try:
        if args.rule == "fewx":
            count = write_fewx_list(args.annotations, args.out, novel_names(args), args.overwrite)
            print(f"{args.out} holds {count} shots")
            return 0
        facts = write_shot_files(
            args.annotations,
            args.out,
            novel_names(args),
            args.shots,
            args.seeds,
            overwrite=args.overwrite,
            progress=lambda pairs: tqdm(pairs, "shots", unit="class"),
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{args.out}: {list(facts.shots)} shots of {len(facts.split.ids)} classes, "
        f"{len(facts.split.novel)} of them novel, seeds {list(facts.seeds)}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
