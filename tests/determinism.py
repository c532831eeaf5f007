"""The same jobs in two processes that differ in what must not matter, compared file by file.

    python -m tests.determinism --output /tmp/determinism

Each job runs twice: with PYTHONHASHSEED 1 and no process that loads data, and with
PYTHONHASHSEED 2, two such processes and --deterministic. What a job leaves is compared: weights,
pools, boxes, rank lists, clusters, embeddings, metrics. Times, logs and the configuration (it
names the folder) are left out, and of the names of an index's segments the part that is drawn so
that no name comes twice. Prints what differs, and fails if anything does.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .programs import ForkedPrograms

QUICK = "configs/quick_schedules"
# Name -> (program, arguments); each writes below OUTPUT.
JOBS: dict[str, tuple[str, ...]] = {
    "stages (SPIL)": (
        *("tools/train_net.py", "--config-file", f"{QUICK}/spil_tiny_instant_test.yaml"),
        *("OUTPUT_DIR", "{output}/stages", "MODEL.DEVICE", "cpu"),
    ),
    "cycle (CST)": (
        *("tools/cycle_self_train.py", "--config-file", f"{QUICK}/cst_tiny_instant_test.yaml"),
        *("OUTPUT_DIR", "{output}/cycle", "MODEL.DEVICE", "cpu"),
    ),
    "ranker": (
        *("tools/train_net.py", "--config-file", f"{QUICK}/ranker_tiny_instant_test.yaml"),
        *("DATASETS.TRAIN", "('ins_mini',)", "DATASETS.TEST", "('ins_mini_two',)"),
        *("OUTPUT_DIR", "{output}/ranker", "MODEL.DEVICE", "cpu"),
    ),
}
IGNORED_SUFFIXES = (".txt", ".html", ".png", ".yaml", ".md", ".lock")
IGNORED_NAMES = ("metrics.json", "elapsed.json", "last_checkpoint")
"""Logs, pictures of what is compared as numbers, times, and files that hold the folder's name."""
IGNORED_KEYS = ("seconds", "elapsed")
_SEGMENT = re.compile(r"\b(\d{6})-[0-9a-f]{8}\b")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the jobs, compare, print; returns the number of files that differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"some of {','.join(JOBS)}")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    _make_galleries(args.output / "datasets")
    names = args.jobs.split(",")
    folders = [args.output / "one", args.output / "other"]
    _run(names, folders[0], 1, ())
    _run(names, folders[1], 2, ("DATALOADER.NUM_WORKERS", "2"))
    compared, different = compare_folders(*folders)
    for name in different:
        sys.stdout.write(f"DIFFERENT {name}\n")
    sys.stdout.write(f"{len(compared)} files compared, {len(different)} differ: {names}\n")
    return len(different)


def _make_galleries(root: Path) -> None:
    from spil_d2.data.datasets.synthetic import build_demo_gallery

    for name, seed, count in (("mini", 0, 3), ("mini_two", 1, 2)):
        place = root / "ins" / name
        build_demo_gallery(
            place, seed=seed, num_instances=count, images_per_instance=4, num_distractors=2
        )


def _run(names: Sequence[str], folder: Path, hash_seed: int, changes: Sequence[str]) -> None:
    folder.mkdir(exist_ok=True)
    log = folder / "log.txt"
    with ForkedPrograms(folder.parent / "datasets", log, hash_seed) as programs:
        for name in names:
            words = [word.format(output=folder) for word in JOBS[name]]
            words[1:1] = ["--deterministic"] if changes else []
            programs.start([*words, *changes])
            status = programs.status()
            if status:
                raise RuntimeError(f"{name} ended with {status}: see {log}")


def compare_folders(one: Path, other: Path) -> tuple[list[str], list[str]]:
    """The files that were compared and those that differ, by their paths below the folders."""
    files = [_listed(folder) for folder in (one, other)]
    different = {*files[0]} ^ {*files[1]}
    compared = sorted({*files[0]} & {*files[1]})
    for name in compared:
        if not _equal(*(_read(listed[name]) for listed in files)):
            different.add(name)
    return compared, sorted(different)


def _listed(folder: Path) -> dict[str, Path]:
    """Path below the folder, without what is drawn by chance in it -> path."""
    return {
        _SEGMENT.sub(r"\1", path.relative_to(folder).as_posix()): path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in IGNORED_SUFFIXES
        and path.name not in IGNORED_NAMES
        and not path.name.startswith("events.out")
    }


def _read(path: Path) -> Any:
    """What a file holds, without times."""
    if path.suffix == ".pth":
        # Our own checkpoints; the state of the optimizer and the iteration are part of them.
        return torch.load(path, weights_only=True, map_location="cpu")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.name.endswith(".json.gz"):
        return _without_times(json.loads(gzip.decompress(path.read_bytes())))
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    return path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(word in k for word in IGNORED_KEYS)}
        return {k: _without_times(v) for k, v in kept.items()}
    if isinstance(value, list):
        return [_without_times(v) for v in value]
    return _SEGMENT.sub(r"\1", value) if isinstance(value, str) else value


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.equal(other)
    if isinstance(one, np.ndarray):
        same_kind = isinstance(other, np.ndarray) and one.dtype == other.dtype
        return same_kind and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dict):
        same_keys = isinstance(other, dict) and one.keys() == other.keys()
        return same_keys and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        same_length = isinstance(other, type(one)) and len(one) == len(other)
        return same_length and all(_equal(a, b) for a, b in zip(one, other))
    return bool(one == other)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
