#!/usr/bin/env python3
"""How well the score of a search says "it is not there": a rejection curve on a labelled dataset.

    python tools/rejection_curve.py --index output/rejection/index --output output/rejection

Indexes the dataset's images like any folder, searches all queries, and compares the scores of
images that show the instance with those of images that do not. Writes table.md, curve.json and
curve.png into the output folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from spil_d2.data.datasets.instance_search import get_dataset_root, load_gallery, load_queries
from spil_d2.data.datasets.records import IMAGES_FOLDER
from spil_d2.engine.folder_index import IndexSettings, index_folder
from spil_d2.engine.rejection import RejectionCurve, plot_rejection_curve, rejection_curve
from spil_d2.engine.searcher import Searcher
from spil_d2.utils.artifacts import write_json_atomic


def main(argv: list[str] | None = None) -> RejectionCurve:
    """Measure, write and print the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ins_instre_dev", help="a registered dataset")
    parser.add_argument("--root", type=Path, help="its folder, where it is not registered")
    parser.add_argument(
        "--index", type=Path, required=True, help="INDEX of its images, or a new one"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--engine", help="of a new index")
    parser.add_argument("--workers", type=int, default=-1)
    args = parser.parse_args(argv)
    root = args.root or get_dataset_root(args.dataset)
    settings = IndexSettings(engine=args.engine, num_workers=args.workers)
    index_folder(root / IMAGES_FOLDER, args.index, settings)
    with Searcher.open(args.index) as searcher:
        scores, present = judged_scores(searcher, root, args.dataset)
        title = f"{args.dataset}, {searcher.info()['engine']}"
    curve = rejection_curve(scores, present)
    args.output.mkdir(parents=True, exist_ok=True)
    write_json_atomic(args.output / "curve.json", curve.to_dict())
    (args.output / "table.md").write_text(curve.to_table() + "\n")
    plot_rejection_curve(curve, args.output / "curve.png", title)
    print(curve.to_table())
    return curve


def judged_scores(
    searcher: Searcher, root: Path, name: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores of all images of each query, and whether they show its instance."""
    shown = {
        Path(one["file_name"]).relative_to(root.resolve() / IMAGES_FOLDER).as_posix(): {
            a["instance_id"] for a in one["annotations"]
        }
        for one in load_gallery(root, name)
    }
    count = len(searcher.images())
    scores, present = [], []
    for query in tqdm(load_queries(root), desc="searching", unit="query"):
        references = [searcher.query_image(one.file_name, [one.box]) for one in query.references]
        hits = [hit for hit in searcher.search(references, count) if hit.image in shown]
        scores.append(np.array([hit.score for hit in hits]))
        present.append(np.array([query.instance_id in shown[hit.image] for hit in hits]))
    return scores, present


if __name__ == "__main__":
    main()
