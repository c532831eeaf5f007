"""Says what `mutmut run` found in the pure layers.

    pip install mutmut==3.8.1
    mutmut run --max-children 2
    python -m tests.mutation [--only "*/ops/*"]

mutmut (its settings are in pyproject.toml) breaks the functions of the pure layers in every place
that it knows how to, one at a time, and runs the tests that reach the function. Prints how many of
these mutants the tests noticed, the survivors that `equivalent/` explains by their reasons, and
all others as differences. Ends with 1 where the tests noticed less than 85 % of the mutants.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from .results import MUTANTS, Mutant, read_mutants, read_rules, reason_of

REQUIRED = 0.85


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns 1 where too many mutants live."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=Path, default=MUTANTS, help="what mutmut has written")
    parser.add_argument("--only", default="*", help="files that match this pattern")
    args = parser.parse_args(argv)
    mutants = [one for one in read_mutants(args.mutants) if fnmatch.fnmatch(one.file, args.only)]
    if not mutants:
        parser.error(f"no mutants of {args.only!r} in {args.mutants}: run mutmut first")
    rules = read_rules()
    reasons = {one: reason_of(one, rules) for one in mutants if one.lives}
    for one, reason in reasons.items():
        if reason is None:
            sys.stdout.write(f"{one.file} {one.name}: {one.change or 'no test reaches it'}\n")
    sys.stdout.write(_table(mutants, reasons) + "\n\n")
    for reason, count in Counter(filter(None, reasons.values())).most_common():
        sys.stdout.write(f"{count:5} equivalent: {reason}\n")
    return int(sum(not one.lives for one in mutants) < REQUIRED * len(mutants))


def _table(mutants: Sequence[Mutant], reasons: dict[Mutant, str | None]) -> str:
    rows = []
    layers = sorted({one.layer for one in mutants})
    for name in [*layers, "all"]:
        some = [one for one in mutants if name in (one.layer, "all")]
        lives = [reasons[one] for one in some if one.lives]
        equivalent = sum(reason is not None for reason in lives)
        noticed, others = len(some) - len(lives), len(lives) - equivalent
        share = 100 * noticed / len(some)
        of_others = 100 * noticed / (len(some) - equivalent)
        rows.append([name, len(some), noticed, equivalent, others, share, of_others])
    headers = "layer mutants noticed equivalent others noticed,_% without_equivalent,_%"
    return tabulate(rows, [word.replace("_", " ") for word in headers.split()], floatfmt=".1f")


if __name__ == "__main__":
    sys.exit(main())
