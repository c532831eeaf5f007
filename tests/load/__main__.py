"""`python -m tests.load --clients 50 --seconds 60 --seed 0`: the server under attack."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from spil_d2.engine.folder_index import IndexSettings
from spil_d2.web import WebSettings

from .harness import Plan, Result, run
from .hostile import Case, cases
from .report import table_of_groups, table_of_holds, table_of_usage, table_of_users, to_json
from .served import command_server, make_gallery


def main() -> int:
    """Run, print what was seen; 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="hostile cases whose name holds this")
    parser.add_argument("--output", type=Path, help="JSON with all figures")
    given = parser.parse_args()
    plan = Plan(given.clients, given.seconds, given.seconds / 4, given.seed)
    with tempfile.TemporaryDirectory() as folder:
        gallery = make_gallery(Path(folder), plan.seed, IndexSettings(num_workers=0))
        wanted = [one for one in cases(gallery, plan.seed, heavy=True) if given.only in one.name]
        with command_server(gallery) as server:
            result = asyncio.run(run(server, gallery, wanted, plan, WebSettings()))
    if given.output is not None:
        given.output.write_text(json.dumps(to_json(plan, result), indent=1))
    sys.stdout.write(_told(plan, result, wanted))
    return bool(result.failures)


def _told(plan: Plan, result: Result, sent: list[Case]) -> str:
    parts = [
        f"{plan.users} users, {plan.attackers} attackers with {len(sent)} cases, {plan.slow} slow "
        f"clients; {plan.seconds:.0f} s, seed {plan.seed}",
        table_of_users(plan, result),
        f"The user with the fewest answers got {result.least}.",
        table_of_groups(result),
        table_of_holds(result),
        table_of_usage(result),
        f"Ended {result.stop_seconds:.1f} s after SIGTERM.",
        f"{len(result.failures)} failures" + "".join(f"\n  {one}" for one in result.failures[:60]),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
