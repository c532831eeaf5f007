#!/usr/bin/env python3
"""Few-shot detection from base training to a table: every row, number of shots and seed.

    python tools/few_shot.py --config-file configs/FewShot/tiny_groceries25.yaml \\
        --tfa-config configs/FewShot/tfa_tiny_groceries25.yaml --shots 1,5,10 --seeds 0,1,2
    python tools/few_shot.py --config-file ... --rows base,stages,qe --shots 10 --seeds 0

Base training runs once, in OUTPUT_DIR/base; then each row is a run of tools/train_net.py in
OUTPUT_DIR/{K}shot_seed{s}/ROW, all rows of a draw on one index. What is finished stays, what was
interrupted goes on. The table is printed and written to OUTPUT_DIR/few_shot.md and few_shot.json
after each row.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from spil_d2 import get_cfg
from spil_d2.engine.few_shot.evaluation import RESULTS
from spil_d2.engine.few_shot.task import FewShotTask
from spil_d2.engine.few_shot.tfa import WEIGHTS as TFA_WEIGHTS
from spil_d2.engine.pair_trainer import WEIGHTS
from spil_d2.engine.run_setup import add_deterministic_option
from spil_d2.evaluation.few_shot import mean_interval
from spil_d2.utils.artifacts import write_json_atomic

QE = ("FEW_SHOT.QE.ENABLED", "True")
SIMILAR = ("FEW_SHOT.VERIFY.ENABLED", "True", "FEW_SHOT.VERIFY.METHOD", "mean")
IGNORE = ("FEW_SHOT.IGNORE_OTHERS.ENABLED", "True")
ROWS: dict[str, tuple[str, ...]] = {
    # (a) A fine-tuned Faster R-CNN in the manner of TFA.
    "tfa": (),
    # (b) Kernels of the shots on the base-trained localizer.
    "base": ("FEW_SHOT.SELF_TRAINING", "False"),
    # The same, in the order of p * similarity ** γ with γ chosen on base classes.
    "base_gamma": ("FEW_SHOT.SELF_TRAINING", "False", "FEW_SHOT.GAMMA", "-1.0"),
    # (c) Self-paced stages on the novel shots' rank lists.
    "stages": (),
    # (d) Query expansion after Stage-1.
    "qe": QE,
    # (e) What is beyond the paper, each on top of (d).
    "verify": (*QE, "FEW_SHOT.VERIFY.ENABLED", "True"),
    "similar": (*QE, *SIMILAR),
    "ignore": (*QE, *IGNORE),
    "second_pass": (*QE, "FEW_SHOT.SECOND_PASS.LABELS", "True"),
    "gamma": (*QE, "FEW_SHOT.GAMMA", "-1.0"),
    # The switches that help, at once: on top of (c), and of (d).
    "together": (*SIMILAR, *IGNORE, "FEW_SHOT.GAMMA", "-1.0"),
    "together_qe": (*QE, *SIMILAR, *IGNORE, "FEW_SHOT.GAMMA", "-1.0"),
}
# Rows that only detect otherwise: they take the trained run of another row.
TRAINED_BY = {"gamma": "qe"}
METRICS = ("nAP", "nAP50", "nAP75")
TRAIN_NET = Path(__file__).with_name("train_net.py")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--tfa-config", help="configuration of the row tfa")
    parser.add_argument("--shots", default="1,5,10", help="K, or several with commas")
    parser.add_argument("--seeds", default="0,1,2", help="draws of shots, with commas")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--num-gpus", default="1", help="processes of each run")
    add_deterministic_option(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the configuration")
    args = parser.parse_args(argv)
    args.rows = args.rows.split(",")
    unknown = sorted(set(args.rows) - set(ROWS))
    if unknown:
        parser.error(f"unknown rows {','.join(unknown)}: use some of {','.join(ROWS)}")
    for row, source in TRAINED_BY.items():
        if row in args.rows and source not in args.rows[: args.rows.index(row)]:
            parser.error(f"the row {row} needs the row {source} before it")
    if "tfa" in args.rows and args.tfa_config is None:
        parser.error("the row tfa needs --tfa-config; leave it out with --rows")
    try:
        args.shots, args.seeds = (
            [int(x) for x in one.split(",")] for one in (args.shots, args.seeds)
        )
    except ValueError as error:
        parser.error(f"--shots and --seeds are whole numbers with commas: {error}")
    return args


class Experiment:
    """All runs of one command line."""

    def __init__(self, args: argparse.Namespace):
        self._args = args
        cfg = get_cfg()
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
        self._cfg: CfgNode = cfg
        self.folder = Path(cfg.OUTPUT_DIR)

    def run(self) -> dict:
        """Run everything; returns row -> K -> seed -> metrics and facts."""
        args = self._args
        results: dict[str, dict[str, dict[str, dict]]] = {}
        if set(args.rows) - {"tfa"}:
            self._train_net(args.config_file, self.folder / "base", "FEW_SHOT.STEP", "base")
        if "tfa" in args.rows:
            # It takes none of the shots, but the draw of a task has to be there.
            step = ("FEW_SHOT.STEP", "tfa_base", *_drawn(args.shots[0], args.seeds[0]))
            self._train_net(args.tfa_config, self.folder / "tfa_base", *step)
        for shots in args.shots:
            for seed in args.seeds:
                for row in args.rows:
                    task = FewShotTask(self._cfg.FEW_SHOT.DATASET, shots, seed)
                    found = self._row(row, task)
                    results.setdefault(row, {}).setdefault(str(shots), {})[str(seed)] = found
                    self.write(results)
        return results

    def _row(self, row: str, task: FewShotTask) -> dict:
        """Metrics and facts of one row."""
        place = self.folder / f"{task.shots}shot_seed{task.seed}" / row
        drawn = _drawn(task.shots, task.seed)
        if row == "tfa":
            weights = ("MODEL.WEIGHTS", str(self.folder / "tfa_base" / TFA_WEIGHTS))
            step = ("FEW_SHOT.STEP", "tfa_finetune")
            self._train_net(self._args.tfa_config, place, *step, *drawn, *weights)
        else:
            weights = ("MODEL.WEIGHTS", str(self.folder / "base" / WEIGHTS))
            changes = ["FEW_SHOT.STEP", "novel", *drawn, *weights, *ROWS[row]]
            # The rows of a draw search the same images.
            changes += ["SEARCH.INDEX_DIR", str(place.with_name("index"))]
            if row in TRAINED_BY:
                changes += ["FEW_SHOT.TRAINED_RUN", str(place.with_name(TRAINED_BY[row]))]
            self._train_net(self._args.config_file, place, *changes)
        return json.loads((place / "inference" / task.test / RESULTS).read_text())

    def _train_net(self, config_file: str, output: Path, *changes: str) -> None:
        args = self._args
        command = [sys.executable, str(TRAIN_NET), "--config-file", config_file, "--resume"]
        command += ["--num-gpus", args.num_gpus, *(["--deterministic"] * args.deterministic)]
        # The fine-tuned baseline's schedule is its own configuration's.
        command += args.opts if config_file == args.config_file else []
        subprocess.run([*command, *changes, "OUTPUT_DIR", str(output)], check=True)

    def write(self, results: dict) -> str:
        """Publish what is known so far; returns the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        table = build_table(results)
        write_json_atomic(self.folder / "few_shot.json", results)
        (self.folder / "few_shot.md").write_text(table + "\n")
        return table


def _drawn(shots: int, seed: int) -> tuple[str, ...]:
    """The keys of a draw."""
    return "FEW_SHOT.SHOTS", str(shots), "FEW_SHOT.SEED", str(seed)


def build_table(results: dict) -> str:
    """Mean and 95 % interval over seeds of each row and K, in percent."""
    lines = []
    for row, by_shots in results.items():
        for shots, by_seed in by_shots.items():
            cells = [
                format_interval([one["metrics"][metric] for one in by_seed.values()])
                for metric in METRICS
            ]
            facts = next(iter(by_seed.values()))
            setup = f"{facts.get('world_size', 1)} x {facts.get('batch_size', '?')}"
            lines.append([row, shots, len(by_seed), *cells, setup])
    header = ["row", "K", "seeds", *METRICS, "processes x batch"]
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True)


def format_interval(values: Sequence[float | None]) -> str:
    """ "12.1 ± 0.4"; without an interval for a single seed, and "-" where a seed has no number."""
    known = [one for one in values if one is not None]
    if len(known) < len(values):
        return "-"
    mean, half = mean_interval(known)
    return f"{mean:.1f}" if math.isnan(half) else f"{mean:.1f} ± {half:.1f}"


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the rows one after the other; returns row -> K -> seed -> results."""
    args = parse_arguments(argv)
    setup_logger(name="spil_d2")
    experiment = Experiment(args)
    results = experiment.run()
    print(build_table(results))
    return results


if __name__ == "__main__":
    main()
