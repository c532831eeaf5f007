#!/usr/bin/env python3
"""Draw the results of some queries as one picture: a row a query, search boxes and final boxes.

python tools/draw_results.py output/tiny_instre_dev ins_instre_dev --queries 3 40 --output a.jpg
python tools/draw_results.py output/demo ins_demo_gallery --root output/demo/gallery --output a.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from spil_d2.data.datasets.instance_search import get_dataset_root, load_gallery, load_queries
from spil_d2.engine.report import ReportQuery, build_report_queries
from spil_d2.engine.trainer import known_ground_truth
from spil_d2.engine.visualize import StripEntry, rank_list_strip
from spil_d2.structures import RankLists
from spil_d2.utils.picture_files import read_pixels


def main(argv: list[str] | None = None) -> Path:
    """Write the picture; returns its path."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="OUTPUT_DIR of a run")
    parser.add_argument("dataset", help="name (ins_...) of the dataset that was searched")
    parser.add_argument("--root", type=Path, help="its folder, where the name is not registered")
    parser.add_argument("--queries", type=int, nargs="+", help="ids; by default the first three")
    parser.add_argument("--results", type=int, default=6, help="images a row")
    parser.add_argument("--output", type=Path, required=True, help="PNG or JPEG to write")
    args = parser.parse_args(argv)
    root = args.root or get_dataset_root(args.dataset)
    gallery, queries = load_gallery(root, args.dataset), load_queries(root)
    known = {one.id: one for one in queries}
    wanted = args.queries or list(known)[:3]
    unknown = [query_id for query_id in wanted if query_id not in known]
    if unknown:
        parser.error(f"{args.dataset} has no queries {unknown}; it has {len(known)}, from 1 on")
    rows = build_report_queries(
        [known[query_id] for query_id in wanted],
        gallery,
        _lists(args.run, f"search/{args.dataset}-*/rank_lists.npz"),
        _lists(args.run, f"inference/{args.dataset}/final_rank_lists.npz"),
        known_ground_truth(gallery, queries),
        num_entries=args.results,
    )
    strips = [_row(one) for one in rows]
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255)
        for strip in strips
    ]
    picture = np.concatenate(padded, axis=0)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.output), picture[:, :, ::-1]):
        raise OSError(f"{args.output} could not be written")
    return args.output


def _lists(run: Path, pattern: str) -> RankLists:
    found = sorted(run.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{run} has {len(found)} files {pattern}; one is needed")
    return RankLists.load(found[0])


def _row(one: ReportQuery) -> np.ndarray:
    entries = [
        StripEntry(
            image=read_pixels(entry.file_name, "RGB"),
            search_box=entry.search_box,
            final_box=entry.final_box,
            gt_boxes=entry.gt_boxes,
            is_relevant=entry.is_relevant,
            caption=f"p {entry.probability:.2f}" if entry.probability is not None else "",
        )
        for entry in one.entries
    ]
    primary = one.query.primary
    return rank_list_strip(read_pixels(primary.file_name, "RGB"), primary.box, entries)


if __name__ == "__main__":
    main()
