#!/usr/bin/env python3
"""Index a folder, with a kill in the middle, and show time, memory and that nothing is lost.

    python tools/make_mixed_folder.py output/mixed/pictures --count 5000
    python tools/measure_indexing.py output/mixed/pictures --output output/mixed --kill-at 0.4

Runs `spil-d2 index FOLDER` in a process of its own and kills it (SIGKILL) once a part of the files
is done; a second run finishes, a third finds nothing to do. Memory is looked at all the while.
Where the folder has the `kinds.json` of make_mixed_folder.py, the displayed sizes are compared
with it. Writes indexing.json and indexing.png; ends with 1 where anything is lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from detectron2.utils.logger import setup_logger

from spil_d2.engine.folder_scan import scan_folder
from spil_d2.engine.plots import plot_lines
from spil_d2.engine.searcher import Searcher
from spil_d2.utils.artifacts import write_json_atomic

logger = logging.getLogger("spil_d2.measure_indexing")
KINDS = "kinds.json"
PERIOD_S = 2.0


def main(argv: list[str] | None = None) -> int:
    """Run, check, write; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="for INDEX and the figures")
    parser.add_argument("--kill-at", type=float, default=0.4, help="part of the files; 1: never")
    parser.add_argument("--engine", default="tiny", help="as for `spil-d2 index`")
    parser.add_argument("--workers", default="0", help="0: one process, whose memory is measured")
    args = parser.parse_args(argv)
    setup_logger(name="spil_d2")
    index = args.output / "index"
    if index.exists():
        parser.error(f"{index} is there already: remove it, or choose another --output")
    total = sum(1 for _ in scan_folder(args.folder))
    command = [sys.executable, "-m", "spil_d2.cli", "index", str(args.folder), "--out", str(index)]
    command += ["--engine", args.engine, "--workers", args.workers]
    runs = [watch(command, index, args.kill_at * total)] if args.kill_at < 1 else []
    runs += [watch(command, index, None), watch(command, index, None)]
    report = {"files": total, "runs": runs, **check(args.folder, index, total, runs)}
    write_json_atomic(args.output / "indexing.json", report)
    draw(runs, args.output / "indexing.png")
    for name in ("images", "unreadable", "seconds", "images_per_second", "peak_mib"):
        logger.info("%s: %s", name, report[name])
    for problem in report["problems"]:
        logger.error("%s", problem)
    return 1 if report["problems"] else 0


def draw(runs: list[dict], path: Path) -> None:
    """Memory over the files that are done, a line for each run but the last."""
    lines = {
        f"run {number}, {'killed' if run['exit'] else 'to the end'}": [
            (one["files"], one["rss_mib"]) for one in run["samples"]
        ]
        for number, run in enumerate(runs[:-1], 1)
    }
    plot_lines(lines, path, x_label="files done", y_label="resident memory, MiB")


def watch(command: list[str], index: Path, kill_after: float | None) -> dict:
    """One run of the command, killed once `kill_after` files are done; with samples of it."""
    started, samples = time.monotonic(), []
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(PERIOD_S)
        memory = memory_of(process.pid)
        if memory is None:
            continue
        done = sum(statuses(index).values())
        seconds = round(time.monotonic() - started, 1)
        samples.append({"seconds": seconds, "files": done, **memory})
        if kill_after is not None and done >= kill_after:
            process.send_signal(signal.SIGKILL)
            kill_after = None
    return {
        "exit": process.wait(),
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": max((one["peak_mib"] for one in samples), default=0),
        "samples": samples,
    }


def memory_of(pid: int) -> dict | None:
    """Resident and peak memory of a process in MiB; None where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        values = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.MULTILINE))
        return {
            "rss_mib": int(values["VmRSS"]) // 1024,
            "peak_mib": int(values["VmHWM"]) // 1024,
        }
    except (OSError, KeyError):
        return None


def statuses(index: Path) -> Counter:
    """How many files are indexed and unreadable by now."""
    try:
        table = sqlite3.connect(f"file:{index / 'files.sqlite'}?mode=ro", uri=True, timeout=60)
    except sqlite3.OperationalError:
        return Counter()
    query = "SELECT status, count(*) FROM files GROUP BY status"
    with table:
        try:
            found = dict(table.execute(query).fetchall())
        except sqlite3.OperationalError:
            found = {}
    table.close()
    return Counter({name: found.get(name, 0) for name in ("indexed", "unreadable")})


def check(folder: Path, index: Path, total: int, runs: list[dict]) -> dict:
    """What the index holds, and what is wrong with it."""
    problems = [
        f"run {number} ended with {run['exit']}"
        for number, run in enumerate(runs)
        if run["exit"] not in ((0, -signal.SIGKILL) if number < len(runs) - 2 else (0,))
    ]
    with Searcher.open(index) as searcher:
        info, images = searcher.info(), searcher.images()
        unreadable = len(info["unreadable"])
        if len(images) + unreadable != total:
            problems.append(f"{len(images)} indexed and {unreadable} unreadable of {total} files")
        if len({path for _, path in images}) != len(images):
            problems.append("a file is in the index twice")
        counted = sum(len(searcher.regions_of(image_id)) for image_id, _ in images)
        if counted != info["regions"]:
            problems.append(f"{info['regions']} regions, but the images have {counted}")
        sizes = {path: list(searcher.image_size(image_id)) for image_id, path in images}
    if (folder / KINDS).is_file():
        kinds = json.loads((folder / KINDS).read_text(encoding="utf-8"))
        for path, size in sizes.items():
            wanted = kinds[path].get("size")
            if wanted is not None and wanted != size:
                problems.append(f"{path} ({kinds[path]['kind']}) is {size}, displayed {wanted}")
    seconds = sum(run["seconds"] for run in runs[:-1])
    return {
        "images": len(sizes),
        "unreadable": unreadable,
        "regions": info["regions"],
        "seconds": round(seconds, 1),
        "images_per_second": round(total / seconds, 2),
        "seconds_when_nothing_changed": runs[-1]["seconds"],
        "peak_mib": max(run["peak_mib"] for run in runs),
        "problems": problems,
    }


if __name__ == "__main__":
    raise SystemExit(main())
