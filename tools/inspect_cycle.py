#!/usr/bin/env python3
"""How much of what a cycle trains on is right: seeds, agreed boxes and pairs of each round.

    python tools/inspect_cycle.py --config-file configs/CST/tiny_instre_dev.yaml
    python tools/inspect_cycle.py --config-file ... OUTPUT_DIR output/another_cycle

Reads what tools/cycle_self_train.py has left so far in OUTPUT_DIR and the annotations of the
images, which the cycle itself never sees.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog

from spil_d2 import get_cfg
from spil_d2.engine.cycle_inspection import Truth, inspect_cycle, inspection_table


def main(argv: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of configs/CST/")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ...")
    args = parser.parse_args(argv)
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    names = cfg.CST.UNLABELED or cfg.DATASETS.TEST
    truth = Truth([record for name in names for record in DatasetCatalog.get(name)])
    rows = inspect_cycle(Path(cfg.OUTPUT_DIR), truth)
    print(inspection_table(rows))
    return rows


if __name__ == "__main__":
    main()
