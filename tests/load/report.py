"""What a run has shown, for people and as JSON."""

from __future__ import annotations

from collections import Counter

import numpy as np
from tabulate import tabulate

from .harness import Plan, Result
from .valid import Timings


def table_of_users(plan: Plan, result: Result) -> str:
    """Latency of the users' requests, in milliseconds, without the others and with them."""
    rows = []
    for kind in sorted(result.attacked, key=lambda one: -len(result.attacked[one].seconds)):
        one, quiet = result.attacked[kind], result.quiet.get(kind, Timings())
        numbers = [len(one.seconds), one.refused, len(one.seconds) / plan.seconds]
        rows.append([kind, *numbers, *_percentiles(one), *_percentiles(quiet)])
    names = ["request", "answered", "503", "a second", "p50", "p95", "p99"]
    return tabulate(rows, [*names, "quiet p50", "p95", "p99"], tablefmt="github", floatfmt=".0f")


def table_of_groups(result: Result) -> str:
    """How hostile requests were answered, by group and status; 0 is a closed connection."""
    groups: dict[str, Counter] = {}
    for (group, status), number in result.findings.exchanges.items():
        groups.setdefault(group, Counter())[status] += number
    statuses = sorted({status for counts in groups.values() for status in counts})
    rows = [[group, *(counts[one] or "" for one in statuses)] for group, counts in groups.items()]
    return tabulate(rows, ["group", *statuses], tablefmt="github")


def table_of_holds(result: Result) -> str:
    """Seconds for which slow clients held a connection until the server ended it."""
    rows = [
        [name, len(seconds), float(np.median(seconds)), max(seconds)]
        for name, seconds in sorted(result.findings.held.items())
    ]
    return tabulate(rows, ["slow client", "times", "median s", "most s"], "github", floatfmt=".1f")


def table_of_usage(result: Result) -> str:
    """Memory, threads and files of the server: quiet, most under attack, and allowed."""
    before, usage = result.before, result.usage
    rows = [
        ["resident MB", before.megabytes[0], max(usage.megabytes), usage.megabytes[-1]],
        ["threads", before.threads[0], max(usage.threads), usage.threads[-1]],
        ["open files", before.files[0], max(usage.files), usage.files[-1]],
    ]
    rows = [[*row, limit] for row, limit in zip(rows, result.limits)]
    return tabulate(rows, ["", "quiet", "most", "at the end", "allowed"], "github", floatfmt=".0f")


def to_json(plan: Plan, result: Result) -> dict:
    """Everything, with the samples of the process."""
    return {
        "clients": plan.clients,
        "seconds": plan.seconds,
        "seed": plan.seed,
        "latency_ms": {
            name: {kind: _percentiles(one) for kind, one in timings.items()}
            for name, timings in (("quiet", result.quiet), ("attacked", result.attacked))
        },
        "answered": {kind: len(one.seconds) for kind, one in result.attacked.items()},
        "refused": {kind: one.refused for kind, one in result.attacked.items()},
        "least_answers_of_a_user": result.least,
        "hostile": {
            f"{group} {status}": number
            for (group, status), number in sorted(result.findings.exchanges.items())
        },
        "held_seconds": result.findings.held,
        "usage": vars(result.usage),
        "limits": result.limits,
        "stop_seconds": result.stop_seconds,
        "failures": result.failures,
    }


def _percentiles(timings: Timings) -> list[float]:
    """p50, p95 and p99 in milliseconds; NaN where there is nothing."""
    if not timings.seconds:
        return [float("nan")] * 3
    return [1000 * float(one) for one in np.percentile(timings.seconds, [50, 95, 99])]
