"""Disturb a program at random, again and again: `python -m tests.faults trainer --times 100`.

It is killed (SIGKILL) at a moment of its CPU time or right before a file operation, or, with
--full-disk, its disk is full from a file operation on; then it is started again until it is done.
Exit code 1 where anything differs from an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .campaign import Campaign, Tally
from .disks import mounted
from .server import ServerCampaign
from .subjects import Cycle, Indexer, Trainer

SUBJECTS = {one.name: one for one in (Trainer, Cycle, Indexer)}
# For the outputs of two lives.
_DISK_MEGABYTES = 600


def run(
    name: str,
    times: int,
    seed: int,
    folder: Path,
    *,
    full_disk: bool = False,
    progress: bool = True,
) -> Tally:
    """Disturb a program.

    Args:
        name: of `SUBJECTS`, or "server", which writes nothing.
        times: how often.
        seed: of the moments.
        folder: an empty one for all that is made.
        full_disk: the disk is full instead of a kill.
        progress: show a bar.

    Raises:
        PermissionError: a full disk needs the right to mount one.
    """
    if name == "server":
        return ServerCampaign(folder, seed).run(times, progress)
    subject = SUBJECTS[name](folder)
    if not full_disk:
        return Campaign(subject, folder, seed).run(times, progress)
    with mounted(folder / "disk", _DISK_MEGABYTES) as disk:
        return Campaign(subject, folder, seed, disk).run(times, progress)


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*SUBJECTS, "server"], metavar="PROGRAM")
    parser.add_argument("--times", type=int, default=100, help="how often each is disturbed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--full-disk", action="store_true", help="instead of kills; needs root")
    parser.add_argument("--folder", type=Path, help="a new one; else one below $TMPDIR")
    given = parser.parse_args(words)
    # Sums in one order, and quick starts.
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = False
    for name in given.names:
        folder = (given.folder or Path(tempfile.mkdtemp(prefix="faults-"))) / name
        folder.mkdir(parents=True)
        tally = run(name, given.times, given.seed, folder, full_disk=given.full_disk)
        sys.stdout.write(f"\n{tally}\n\n")
        sys.stdout.flush()
        failed |= bool(tally.differences)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
