#!/usr/bin/env python3
"""The table of search engines on a dataset: ranking, boxes, speed, size of the index.

    python tools/compare_engines.py --engines grid,rmac,best
    python tools/compare_engines.py --dataset ins_davis_dev --rerankings none,qe

A row is one file of configs/search/. What was measured is found again in the output folder; a run
that was interrupted goes on behind the last index or row that it finished.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.utils.logger import setup_logger

from spil_d2 import get_cfg
from spil_d2.data.datasets.instance_search import get_queries
from spil_d2.engine.engine_table import RERANKINGS, Dataset, engine_rows, write_table
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.run_setup import add_deterministic_option
from spil_d2.utils.artifacts import lock_output_dir
from spil_d2.utils.determinism import make_deterministic

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "search"


def main(argv: list[str] | None = None) -> list[dict]:
    """Measure the engines one after the other; returns the rows of the table."""
    known = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", default=",".join(known), help=f"some of {','.join(known)}")
    parser.add_argument("--dataset", default="ins_instre_dev", help="with ground truth")
    parser.add_argument(
        "--rerankings", default=",".join(RERANKINGS), help=f"some of {','.join(RERANKINGS)}"
    )
    parser.add_argument("--output", type=Path, default=Path("output") / "engines")
    parser.add_argument("-k", type=int, default=128, help="the cut of the rank lists")
    add_deterministic_option(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... for all engines")
    args = parser.parse_args(argv)
    if args.deterministic:
        make_deterministic()
    names = args.engines.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"--engines {','.join(unknown)}: {CONFIGS} holds {','.join(known)}")
    if unknown := sorted(set(args.rerankings.split(",")) - set(RERANKINGS)):
        parser.error(f"--rerankings {','.join(unknown)}: use some of {','.join(RERANKINGS)}")
    setup_logger(name="spil_d2")
    dataset = Dataset(args.dataset, DatasetCatalog.get(args.dataset), get_queries(args.dataset))
    rows: list[dict] = []
    with lock_output_dir(args.output):
        for name in names:
            cfg = _config(name, args.opts)
            rows += engine_rows(
                name, cfg, dataset, args.output, rerankings=args.rerankings.split(","), k=args.k
            )
            table = write_table(rows, dataset, args.output, args.k)
    print(table)
    return rows


def _config(name: str, opts: list[str]):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    cfg.merge_from_list(opts)
    resolve_config(cfg)
    cfg.freeze()
    return cfg


if __name__ == "__main__":
    main()
