#!/usr/bin/env python
"""Check an instance-search data set: lists every problem, then a summary. Exit status 0 or 1."""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

import spil_d2.data  # noqa: F401  (registers the built-in data sets)
from spil_d2.data.datasets.fields import Problem
from spil_d2.data.datasets.instance_search import check_dataset, get_dataset_root
from spil_d2.data.datasets.records import read_gallery, read_queries


def summarize(root: Path) -> str:
    """Count what the readable records of a data set hold."""
    problems: list[Problem] = []
    gallery = read_gallery(root, problems)
    queries = read_queries(root, gallery, problems)
    images_per_instance: dict[int, set[int]] = defaultdict(set)
    for annotation in gallery.annotations:
        images_per_instance[annotation.instance_id].add(annotation.image_id)
    counts = [len(images) for images in images_per_instance.values()]
    external = sum(query.references[0].image_id is None for query in queries)
    lines = [
        f"images     {len(gallery.images)}",
        f"boxes      {len(gallery.annotations)}",
        f"instances  {len(counts)}",
        f"queries    {len(queries)} ({external} external)",
    ]
    if counts:
        spread = f"{min(counts)} / {statistics.median(counts):g} / {max(counts)}"
        lines.append(f"images per instance (min / median / max)  {spread}")
    return "\n".join(lines)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="a data set's folder, or a registered name (ins_NAME)")
    parser.add_argument(
        "--no-decode", action="store_true", help="read only the headers of the pictures"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print every problem and a summary; returns 1 where there is a problem."""
    args = parse_args(argv)
    root = Path(args.dataset).expanduser()
    if not root.is_dir():
        try:
            root = get_dataset_root(args.dataset)
        except KeyError as error:
            print(f"{args.dataset!r} is no folder, and {error.args[0]}")
            return 1
    progress = partial(tqdm, desc="pictures", unit="picture")
    problems = check_dataset(root, decode=not args.no_decode, progress=progress)
    for problem in problems:
        print(problem)
    print(summarize(root.resolve()))
    print(f"{len(problems)} problems" if problems else f"{root} is sound")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
