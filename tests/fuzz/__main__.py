"""Fuzz the loaders of every format.

    python -m tests.fuzz [FORMAT ...] --mutants 10000 --seed 0

Prints a row a format. Inputs that fail are kept in output/fuzz, and for each the command is told
that repeats it. The exit status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from .formats import FORMATS
from .runner import Case, Result, run_format

ROOT = Path(__file__).resolve().parents[2]
FAILED = ROOT / "output" / "fuzz"
_SHOWN = 20


def main() -> int:
    args = _parse()
    names = args.formats or list(FORMATS)
    if args.only is not None:
        return _repeat(names[0], args.seed, args.only)
    results = []
    for name in names:
        with tqdm(total=args.mutants, desc=name, unit="mutant", file=sys.stderr) as bar:
            results.append(
                run_format(
                    FORMATS[name],
                    args.mutants,
                    args.seed,
                    args.failed,
                    lambda done, bar=bar: bar.update(done - bar.n),
                )
            )
    sys.stdout.write(f"{table(results)}\n")
    for result in results:
        for failure in result.failures[:_SHOWN]:
            sys.stdout.write(f"{failure.reason}: {failure.file}\n    {failure.command}\n")
    return 1 if any(result.failures for result in results) else 0


def table(results: list[Result]) -> str:
    """A row a format."""
    rows = [
        (
            one.format,
            one.mutants,
            one.accepted,
            one.refused,
            len(one.failures),
            f"{one.seconds:.0f}",
            f"{1000 * one.slowest_seconds:.0f} (#{one.slowest})",
            f"{one.growth / 2**20:.0f}",
        )
        for one in results
    ]
    heads = ("format", "mutants", "accepted", "refused", "failures", "s", "slowest, ms CPU")
    return tabulate(rows, headers=(*heads, "RSS growth, MiB"), tablefmt="pipe")


def _repeat(name: str, seed: int, index: int) -> int:
    """Run one mutant here, and show what comes of it."""
    with tempfile.TemporaryDirectory() as place:
        case = Case(FORMATS[name], Path(place) / "case", seed)
        file, content, _ = case.mutate(index)
        sys.stdout.write(f"{file}: {len(content)} bytes, {content[:300]!r}\n")
        reason, is_accepted, error = case.run(index)
        if error is not None:
            traceback.print_exception(error, file=sys.stdout)
        sys.stdout.write(f"{reason or ('accepted' if is_accepted else 'refused')}\n")
    return 1 if reason else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--mutants", type=int, default=10_000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="run mutant N of one format here")
    parser.add_argument("--failed", type=Path, default=FAILED, help="folder of failing inputs")
    args = parser.parse_args()
    unknown = sorted(set(args.formats) - set(FORMATS))
    if unknown:
        parser.error(f"{unknown} are none of the formats {', '.join(FORMATS)}")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
