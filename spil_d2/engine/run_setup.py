"""What makes a run of a program repeatable: its seed, noted, and `--deterministic`."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from detectron2.utils import comm

from ..utils.artifacts import write_json_atomic
from ..utils.determinism import draw_seed

logger = logging.getLogger(__name__)

SEED_FILE = "seed.json"
"""Below OUTPUT_DIR: the seed of the run that was started there last."""


def add_deterministic_option(parser: argparse.ArgumentParser) -> None:
    """Add `--deterministic`; the program calls `make_deterministic` where it is given."""
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="only operations that give the same bits each time; slower on a GPU, and one that has "
        "no such form stops the run and is named",
    )


def settle_seed(cfg, *, keep: bool) -> None:
    """Replace SEED -1 in place by a seed that is drawn, note the seed in OUTPUT_DIR and log it.

    All processes get the same seed. With `keep` a run whose seed was drawn goes on with that one;
    given as SEED, it repeats the run.

    Args:
        cfg: not frozen; with SEED and OUTPUT_DIR, which this process may write to.
        keep: the run goes on with, or judges, what lies in OUTPUT_DIR.

    Raises:
        ValueError: SEED is below -1, or the noted seed cannot be read.
    """
    if cfg.SEED < -1:
        raise ValueError(f"SEED is {cfg.SEED}: use 0 or more, or -1 for one that is drawn")
    path = Path(cfg.OUTPUT_DIR) / SEED_FILE
    origin = "SEED"
    if cfg.SEED == -1:
        known = _noted(path) if keep and comm.is_main_process() else None
        origin = "drawn" if known is None else f"of {path}"
        # The main process's, everywhere.
        cfg.SEED, origin = comm.all_gather((draw_seed() if known is None else known, origin))[0]
    if comm.is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, {"seed": cfg.SEED})
    logger.info("seed %d (%s); SEED %d repeats the run", cfg.SEED, origin, cfg.SEED)


def _noted(path: Path) -> int | None:
    """The seed in a file of `settle_seed`, or None without a file."""
    if not path.is_file():
        return None
    try:
        return int(json.loads(path.read_text())["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} holds no seed ({error!r}): write {{"seed": N}} there, with N of the log, or '
            "start anew without --resume"
        ) from error
