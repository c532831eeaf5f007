#!/usr/bin/env python3
"""Cycle self-training (CST): localizer and ranker train each other on unlabeled images.

python tools/cycle_self_train.py --config-file configs/CST/tiny_instre_dev.yaml
python tools/cycle_self_train.py --config-file ... --rounds 6 --resume
python tools/cycle_self_train.py --config-file ... --num-gpus 8 CST.SAMPLING.STRATEGY topk

Killed anywhere, --resume goes on. Prints the growing Table 8; everything is in OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from datetime import timedelta
from pathlib import Path

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from spil_d2 import get_cfg
from spil_d2.engine.cycle import run_cycle
from spil_d2.engine.cycle_evaluation import growing_table
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.run_setup import add_deterministic_option, settle_seed
from spil_d2.utils.allocator import keep_freed_memory
from spil_d2.utils.artifacts import lock_output_dir
from spil_d2.utils.determinism import make_deterministic

# The main process alone embeds and clusters; the others wait for it.
TIMEOUT = timedelta(hours=12)


def setup(args: argparse.Namespace):
    """The configuration of a command line."""
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if args.rounds is not None:
        cfg.CST.ROUNDS = args.rounds
    return cfg


def main(args: argparse.Namespace):
    """Run one process of the cycle; returns the rows of Table 8 on the main one."""
    if args.eval_only:
        raise SystemExit(
            "a cycle judges itself after each round; tools/compare_localizers.py judges weights"
        )
    keep_freed_memory()
    if args.deterministic:
        make_deterministic()
    cfg = setup(args)
    is_main = comm.is_main_process()
    guard = lock_output_dir(Path(cfg.OUTPUT_DIR)) if is_main else contextlib.nullcontext()
    with guard:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="spil_d2")
        resolve_config(cfg)
        settle_seed(cfg, keep=args.resume)
        cfg.freeze()
        default_setup(cfg, args)
        rows = run_cycle(cfg, args.resume)
    if is_main:
        logging.getLogger("spil_d2").info("Table 8, in percent:\n%s", growing_table(rows))
    return rows


def parser():
    """Detectron2's parser with the number of rounds and --deterministic."""
    one = default_argument_parser(epilog=__doc__)
    add_deterministic_option(one)
    one.add_argument("--rounds", type=int, help="in place of CST.ROUNDS")
    return one


if __name__ == "__main__":
    arguments = parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        timeout=TIMEOUT,
        args=(arguments,),
    )
