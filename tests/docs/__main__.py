"""Executes every command of the documentation that can run here, in a fresh folder.

    python -m tests.docs
    python -m tests.docs --only README GETTING_STARTED --work /a/new/folder

Prints a row a command: executed or only checked (why), seconds, exit status. Ends with 1 where one
failed. All that they wrote is in WORK/log.txt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .commands import DOCUMENTS, PROGRAMS, Statement, find_statements
from .execution import Outcome, Shell
from .work_folder import make_work_folder


def main() -> int:
    """Run the statements; returns 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="parts of names of documents")
    parser.add_argument("--work", type=Path, help="a new folder; by default a temporary one")
    args = parser.parse_args()
    chosen = [
        name
        for name in (*DOCUMENTS, *PROGRAMS)
        if not args.only or any(part in name for part in args.only)
    ]
    work = args.work or Path(tempfile.mkdtemp(prefix="spil_d2_docs_")) / "work"
    environment = make_work_folder(work)
    statements: list[Statement] = [one for name in chosen for one in find_statements(name)]
    failed = []
    for outcome in Shell(work, environment, work / "log.txt").run(statements):
        _say(as_row(outcome))
        if outcome.status:
            failed.append(outcome)
    for outcome in failed:
        _say(f"\n{outcome.statement.place} ended with {outcome.status}:\n{outcome.output}")
    _say(f"\n{len(failed)} failed; all output is in {work / 'log.txt'}")
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def as_row(outcome: Outcome) -> str:
    """A row of the table: place, command, what became of it, seconds, exit status."""
    one = outcome.statement
    text = f"block of {one.kind}" if one.kind in ("python", "json") else one.text.splitlines()[0]
    seconds = "" if outcome.status is None else f"{outcome.seconds:.0f}"
    status = "" if outcome.status is None else str(outcome.status)
    how = outcome.how if outcome.status is not None else f"checked only: {outcome.how}"
    how = outcome.how if outcome.how.startswith("as ") else how
    return f"| {one.place} | `{text}` | {how} | {seconds} | {status} |"


if __name__ == "__main__":
    sys.exit(main())
