#!/usr/bin/env python3
"""Train SPIL in self-paced stages on a dataset's queries, or evaluate a trained model.

With the meta-architecture "Ranker": train CST's ranker on a dataset's identities. With
FEW_SHOT.STEP "base", "novel", "tfa", ...: one step of few-shot detection (tools/few_shot.py: all).

python tools/train_net.py --config-file configs/SPIL/tiny_instre_dev.yaml
python tools/train_net.py --config-file ... --resume
python tools/train_net.py --config-file ... --deterministic SEED 5
python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
python tools/train_net.py --config-file configs/FewShot/tiny_groceries25.yaml FEW_SHOT.STEP base
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from datetime import timedelta
from pathlib import Path

from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from spil_d2 import get_cfg
from spil_d2.engine.few_shot.pipeline import evaluate_weights, run_step
from spil_d2.engine.pipeline import evaluate, train
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.ranker_trainer import evaluate_identities, train_identities
from spil_d2.engine.run_setup import add_deterministic_option, settle_seed
from spil_d2.utils.allocator import keep_freed_memory
from spil_d2.utils.artifacts import lock_output_dir
from spil_d2.utils.checkpoints import SafeCheckpointer
from spil_d2.utils.determinism import make_deterministic

# One process alone searches and draws masks; the others wait for it.
TIMEOUT = timedelta(hours=4)


def setup(args: argparse.Namespace):
    """The configuration of a command line."""
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg


def job(cfg):
    """What trains, and what evaluates a model on one dataset."""
    if cfg.FEW_SHOT.STEP:
        return run_step, evaluate_weights
    if cfg.MODEL.META_ARCHITECTURE == "Ranker":
        return train_identities, evaluate_identities
    return train, evaluate


def main(args: argparse.Namespace):
    """Run one process of the job; returns dataset name -> summary on the main one."""
    keep_freed_memory()
    if args.deterministic:
        make_deterministic()
    cfg = setup(args)
    guard = (
        lock_output_dir(Path(cfg.OUTPUT_DIR))
        if comm.is_main_process()
        else contextlib.nullcontext()
    )
    with guard:
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="spil_d2")
        resolve_config(cfg)
        settle_seed(cfg, keep=args.resume or args.eval_only)
        cfg.freeze()
        default_setup(cfg, args)
        run, judge = job(cfg)
        if not args.eval_only:
            summaries = run(cfg, args.resume)
        else:
            model = build_model(cfg)
            SafeCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(
                cfg.MODEL.WEIGHTS, resume=args.resume
            )
            summaries = {}
            for name in cfg.DATASETS.TEST:
                summaries.update(judge(cfg, model, name))
    for name, summary in summaries.items():
        logging.getLogger("spil_d2").info("%s: %s", name, summary)
    return summaries


def parser():
    """Detectron2's parser with --deterministic."""
    one = default_argument_parser(epilog=__doc__)
    add_deterministic_option(one)
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
