#!/usr/bin/env python3
"""The main job on a small gallery that the project builds itself: search, train, localize, report.

    python tools/demo.py --output output/demo

Needs no data and no GPU. An interrupted demo goes on where it stopped; a finished one shows its
result again; --fresh starts anew.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from detectron2.engine import default_setup
from detectron2.utils.logger import setup_logger

from spil_d2 import get_cfg
from spil_d2.data.datasets.instance_search import register_instance_search
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine.pipeline import train
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.run_setup import add_deterministic_option, settle_seed
from spil_d2.utils.allocator import keep_freed_memory
from spil_d2.utils.artifacts import lock_output_dir
from spil_d2.utils.determinism import make_deterministic

CONFIG = Path(__file__).parents[1] / "configs" / "SPIL" / "tiny_demo.yaml"


def main(argv: list[str] | None = None) -> dict:
    """Run the demo; returns its summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), help="folder to write")
    parser.add_argument("--config-file", default=str(CONFIG))
    parser.add_argument("--fresh", action="store_true", help="forget an earlier demo in the folder")
    add_deterministic_option(parser)
    # A smaller gallery, for tests.
    parser.add_argument("--instances", type=int, help=argparse.SUPPRESS)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the configuration")
    args = parser.parse_args(argv)
    keep_freed_memory()
    if args.deterministic:
        make_deterministic()
    gallery = args.output / "gallery"
    if args.fresh and args.output.exists():
        if not gallery.is_dir():
            parser.error(f"{args.output} holds no demo: --fresh removes nothing else")
        with lock_output_dir(args.output):
            shutil.rmtree(args.output)
    args.output.mkdir(parents=True, exist_ok=True)
    build_demo_gallery(gallery, num_instances=args.instances)
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.OUTPUT_DIR = str(args.output)
    name = "ins_demo_gallery"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    register_instance_search(name, gallery)
    with lock_output_dir(args.output):
        setup_logger(cfg.OUTPUT_DIR, name="spil_d2")
        resolve_config(cfg)
        settle_seed(cfg, keep=True)
        cfg.freeze()
        default_setup(cfg, args)
        summary = train(cfg, resume=True)[name]
    print_result(args.output, summary)
    return summary


def print_result(output: Path, summary: dict) -> None:
    """The numbers, and where the pictures are."""
    stages = ", ".join(f"{miou:.3f}" for miou in summary["miou_stage"])
    print(
        f"\nmIoU of the boxes, over the true positives in the top 128:\n"
        f"  before (search)   {summary['miou_search']:.3f}\n"
        f"  after each stage  {stages}\n"
        f"  final             {summary['miou_final']:.3f}\n"
        f"AP@128 (std)        {summary['ap128_std_search']:.3f} -> {summary['ap128_std']:.3f}\n"
        f"{summary['seconds']:.0f} seconds. Pictures: {output / 'report.html'}"
    )


if __name__ == "__main__":
    main()
