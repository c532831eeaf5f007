#!/usr/bin/env python3
"""Convert a public GlobalTrack checkpoint (mmdetection 1.0) to weights of configs/Base-CST.yaml.

python tools/convert_globaltrack.py --checkpoint epoch_12.pth --output globaltrack_r50_fpn.pth
python tools/train_net.py --config-file ... MODEL.WEIGHTS globaltrack_r50_fpn.pth

A tensor that is left over, missing or of another shape is an error that names it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from spil_d2 import get_cfg
from spil_d2.engine.globaltrack_weights import convert_checkpoint

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "Base-CST.yaml"


def main(argv: list[str] | None = None) -> int:
    """Convert one file; returns the number of tensors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="mmdetection's epoch_XX.pth")
    parser.add_argument("--output", type=Path, required=True, help="a .pth file for MODEL.WEIGHTS")
    parser.add_argument("--config-file", type=Path, default=CONFIG)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the network")
    args = parser.parse_args(argv)
    cfg = get_cfg()
    cfg.merge_from_file(str(args.config_file))
    cfg.merge_from_list(args.opts)
    try:
        count = convert_checkpoint(cfg, args.checkpoint, args.output)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(f"{count} tensors in {args.output}")
    return count


if __name__ == "__main__":
    main()
