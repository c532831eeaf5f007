#!/usr/bin/env python3
"""The rows of SPIL's Table 2 on one dataset, with the same budget and the same rank lists.

    python tools/ablation.py --config-file configs/SPIL/tiny_instre_dev.yaml SOLVER.MAX_ITER 600

FSOD, the one-shot detector of Fan et al., spends the whole budget on the query images (one stage).
SPIL.STAGE_TOP_K with the value of SPIL.TRAIN_TOP_K judges the last stage alone, in far less time.
Each row trains in OUTPUT_DIR/NAME and goes on where it was interrupted; the table is printed and
written to OUTPUT_DIR/ablation.json and ablation.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from spil_d2 import get_cfg
from spil_d2.data.datasets.instance_search import get_queries
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.run_setup import add_deterministic_option
from spil_d2.engine.search_stage import search_dataset
from spil_d2.utils.artifacts import write_json_atomic
from spil_d2.utils.determinism import make_deterministic

ROWS = {
    "SP": ("SPIL.CONTRASTIVE", "False", "COATTENTION.ENABLED", "False"),
    "SP+CA": ("SPIL.CONTRASTIVE", "False", "COATTENTION.ENABLED", "True"),
    "SP+CT": ("SPIL.CONTRASTIVE", "True", "COATTENTION.ENABLED", "False"),
    "SP+CT+CA": ("SPIL.CONTRASTIVE", "True", "COATTENTION.ENABLED", "True"),
    "FSOD": (
        *("SPIL.CONTRASTIVE", "True", "COATTENTION.ENABLED", "False", "SPIL.NUM_STAGES", "1"),
        *("MODEL.CORRELATION_HEAD.NAME", "AttentionRPN", "MODEL.MASK_ON", "False"),
        *("MODEL.ROI_HEADS.NAME", "MultiRelationROIHeads"),
    ),
}
TRAIN_NET = Path(__file__).with_name("train_net.py")


def main(argv: list[str] | None = None) -> dict:
    """Run the rows one after the other; returns row name -> summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    add_deterministic_option(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the configuration")
    args = parser.parse_args(argv)
    if args.deterministic:
        make_deterministic()
    setup_logger(name="spil_d2")
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    resolve_config(cfg)
    folder, name = Path(cfg.OUTPUT_DIR), cfg.DATASETS.TRAIN[0]
    lists = search_dataset(cfg, name, DatasetCatalog.get(name), get_queries(name), folder)
    lists.save(folder / "rank_lists.npz")
    summaries = {}
    for row in args.rows.split(","):
        command = [sys.executable, str(TRAIN_NET), "--config-file", args.config_file, "--resume"]
        command += [*(["--deterministic"] * args.deterministic)]
        command += [*args.opts, *row_keys(row, cfg), "SEARCH.RERANK", "False"]
        command += ["SEARCH.RANK_LISTS", str(folder / "rank_lists.npz")]
        command += ["OUTPUT_DIR", str(folder / row)]
        subprocess.run(command, check=True)
        summaries[row] = json.loads((folder / row / "summary.json").read_text())
    table = _table(summaries)
    write_json_atomic(folder / "ablation.json", summaries)
    (folder / "ablation.md").write_text(table + "\n")
    print(table)
    return summaries


def row_keys(row: str, cfg) -> list[str]:
    """KEY VALUE ... of a row.

    Args:
        row: one of `ROWS`.
        cfg: of the other rows: FSOD takes its widths, resolutions and last threshold from it.
    """
    if row != "FSOD":
        return [*ROWS[row]]
    model, is_c4 = cfg.MODEL, cfg.MODEL.ROI_HEADS.NAME == "QueryRes5ROIHeads"
    keys = [*ROWS[row], "SPIL.TAU", f"[{cfg.SPIL.TAU[cfg.SPIL.NUM_STAGES - 1]}]"]
    keys += ["MODEL.QUERY.POOLER_RESOLUTION", str(model.ROI_BOX_HEAD.POOLER_RESOLUTION)]
    keys += ["MODEL.FSOD.RES5", str(is_c4)]
    if model.CORRELATION_HEAD.NAME == "ProjectedReweighting":
        keys += ["MODEL.RPN.CONV_DIMS", f"[{model.CORRELATION_HEAD.CHANNELS}]"]
        keys += ["MODEL.FSOD.CHANNELS", str(model.ROI_BOX_HEAD.FC_DIM)]
    return keys


def _table(summaries: dict[str, dict]) -> str:
    rows = []
    num_stages = max(len(one["miou_stage"]) for one in summaries.values())
    for row, one in summaries.items():
        stages = ["" if miou is None else f"{100 * miou:.1f}" for miou in one["miou_stage"]]
        stages += [""] * (num_stages - len(stages))
        columns = [one.get(key) for key in ("ap128_std_search", "ap128_std", "auc_p")]
        judged = ["" if value is None else f"{100 * value:.1f}" for value in columns]
        search = f"{100 * one['miou_search']:.1f}"
        rows.append([row, search, *stages, *judged, f"{one['seconds']:.0f}"])
    header = ["", "mIoU of the search", *(f"stage {k}" for k in range(num_stages))]
    header += ["AP of the search", "AP", "AUC of p", "seconds"]
    return tabulate(rows, header, tablefmt="pipe")


if __name__ == "__main__":
    main()
