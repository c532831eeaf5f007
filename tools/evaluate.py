#!/usr/bin/env python3
"""Judge predictions that anyone made by an INS or person-search protocol.

    python tools/evaluate.py --protocol ins_prw --annotations annotation --predictions found.npz

Prints a table in percent. With --output it writes the metrics, the precision-recall curves and the
AP of every query. docs/EVALUATION_INS.md has the protocols and the formats.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from spil_d2.data.datasets.text_files import read_lines
from spil_d2.engine.ins_plots import plot_precision_recall
from spil_d2.evaluation.ins_evaluator import SearchReport, judge, read_subset
from spil_d2.evaluation.ins_predictions import read_predictions
from spil_d2.evaluation.ins_protocol import PRESETS, Protocol
from spil_d2.evaluation.protocol_sources import read_protocol
from spil_d2.utils.artifacts import write_json_atomic


def main(argv: Sequence[str] | None = None) -> SearchReport:
    """Read, judge, print and write."""
    parser = _parser()
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        protocol = _read_protocol(args)
        subsets = {} if args.subset is None else read_subset(args.subset, protocol)
        predictions = read_predictions(args.predictions, protocol)
        report = judge(protocol, lambda query: predictions.of(query.name), subsets)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(table(report))
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(args.output, report.to_dict())
    if args.plots is not None:
        args.plots.mkdir(parents=True, exist_ok=True)
        path = args.plots / f"precision_recall_{protocol.key.replace('/', '_')}.png"
        plot_precision_recall(report.curves(), path, "Precision and recall, IoU > 0.5")
    return report


def table(report: SearchReport) -> str:
    """The metrics in percent, a row each, a column for all queries and for each subset."""
    metrics, groups = report.metrics(), report.groups()
    names = list(dict.fromkeys(key.rpartition("/")[2] for key in metrics))
    rows = [[name, *(f"{metrics[f'{key}/{name}']:.2f}" for key in groups)] for name in names]
    rows.insert(0, ["queries", *(str(len(outcomes)) for outcomes in groups.values())])
    text = tabulate(rows, headers=["", *groups], tablefmt="pipe", disable_numparse=True)
    return f"Evaluation in percent\n{text}"


def _read_protocol(args: argparse.Namespace) -> Protocol:
    more: list[str] = []
    if args.more_images is not None:
        for _, names in read_lines(args.more_images, "list of images"):
            more += names
    return read_protocol(args.protocol, args.annotations, args.local_gallery, more)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--protocol", required=True, choices=list(PRESETS))
    add("--annotations", required=True, type=Path, help="folder of the official annotations")
    add("--predictions", required=True, type=Path, help=".json or .npz")
    add("--local-gallery", type=Path, help="image lists of ins_cuhk_sysu; made up without it")
    add("--more-images", type=Path, help="names of further images that were searched (ins_prw)")
    add("--subset", type=Path, help="IDs whose queries, and all others, are reported apart")
    add("--output", type=Path, help="JSON file to write")
    add("--plots", type=Path, help="folder for the precision-recall curves")
    return parser


if __name__ == "__main__":
    main()
