#!/usr/bin/env python3
"""Table 2 of CST: localizers on the test set of a cycle, each with and without the ranker.

    python tools/compare_localizers.py --config-file configs/CST/tiny_instre_dev.yaml
    python tools/compare_localizers.py --config-file ... --localizers edge_boxes,globaltrack
    python tools/compare_localizers.py --config-file ... --localizers detector \\
        SEARCH.DETECTOR.CONFIG_FILE COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml

GlobalTrack and the ranker are those of the cycle in OUTPUT_DIR, after its last judged round. What
was measured is found again in the output folder; a run that was interrupted goes on behind the last
localizer or row that it finished.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.utils.logger import setup_logger

from spil_d2 import get_cfg
from spil_d2.engine.baselines import BASELINES
from spil_d2.engine.cycle_data import CycleData
from spil_d2.engine.localizer_table import LocalizerTable, cycle_weights
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.run_setup import add_deterministic_option
from spil_d2.utils.artifacts import lock_output_dir
from spil_d2.utils.determinism import make_deterministic

DEFAULTS = (
    "whole_image",
    "edge_boxes",
    "selective_search",
    "detector",
    "local_search",
    "local_search_full",
    "globaltrack",
)


def main(argv: list[str] | None = None) -> list[dict]:
    """Measure the localizers one after the other; returns the rows of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="of configs/CST/")
    parser.add_argument(
        "--localizers", default=",".join(DEFAULTS), help=f"some of {','.join(BASELINES)}"
    )
    for part in ("localizer", "ranker"):
        parser.add_argument(
            f"--{part}-weights", type=Path, help="in place of those of the cycle in OUTPUT_DIR"
        )
    parser.add_argument("--output", type=Path, help="in place of OUTPUT_DIR/localizers")
    add_deterministic_option(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ...")
    args = parser.parse_args(argv)
    if args.deterministic:
        make_deterministic()
    names = args.localizers.split(",")
    if unknown := sorted(set(names) - set(BASELINES)):
        parser.error(f"--localizers {','.join(unknown)}: use some of {','.join(BASELINES)}")
    for path in filter(None, (args.localizer_weights, args.ranker_weights)):
        if not path.is_file():
            parser.error(f"{path}: there is no such file")
    setup_logger(name="spil_d2")
    cfg = _config(args.config_file, args.opts)
    output = args.output or Path(cfg.OUTPUT_DIR) / "localizers"
    table = LocalizerTable(
        cfg,
        CycleData.from_config(cfg),
        args.localizer_weights or cycle_weights(cfg, "localizer"),
        args.ranker_weights or cycle_weights(cfg, "ranker"),
        output,
    )
    rows: list[dict] = []
    with lock_output_dir(output):
        for name in names:
            rows += table.rows(name)
            text = table.write(rows)
    print(text)
    return rows


def _config(path: str, opts: list[str]):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(opts)
    resolve_config(cfg)
    cfg.freeze()
    return cfg


if __name__ == "__main__":
    main()
