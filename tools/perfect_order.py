#!/usr/bin/env python3
"""How much of a detector's AP its order costs: COCO's AP as it is, and in the order of the truth.

    python tools/perfect_order.py --annotations test.json \\
        --detections output/.../inference/groceries25_test/coco_instances_results.json

The second row has the same boxes, each scored by its IoU with the nearest true box of its class:
what is lacking to 100 there is due to the boxes, the difference of the rows to their scores. Judged
are the classes that were detected, on all images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pycocotools.coco import COCO
from tabulate import tabulate

from spil_d2.evaluation.perfect_order import coco_ap, order_by_truth


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the table; returns order -> metrics in percent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, required=True, help="COCO file of the images")
    parser.add_argument("--detections", type=Path, required=True, help="COCO results")
    args = parser.parse_args(argv)
    for path in (args.annotations, args.detections):
        if not path.is_file():
            parser.error(f"there is no file {path}")
    detections = json.loads(args.detections.read_text())
    if not detections:
        parser.error(f"{args.detections} has no detections")
    truth = COCO(str(args.annotations))
    classes = sorted({one["category_id"] for one in detections})
    table = {
        "as it is": coco_ap(truth, detections, classes),
        "by the truth": coco_ap(truth, order_by_truth(truth, detections), classes),
    }
    rows = [{"order": name, **metrics} for name, metrics in table.items()]
    print(tabulate(rows, headers="keys", floatfmt=".1f", tablefmt="github"))
    return table


if __name__ == "__main__":
    main()
