"""Two ways to one result, timed in turn within one process, and the results compared."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from tabulate import tabulate

from .settings import BenchmarkSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEYS = ("ratio", "reference_seconds", "our_seconds", "max_abs_diff", "device")
"""What every row has; see `compare`."""


@dataclass
class Stopwatch:
    """Seconds of the processor, all threads of this process, and seconds that passed.

    Where the machine has other work, only processor seconds say something of the program. They say
    nothing of what an accelerator does, so that there the time that passed counts.
    """

    device: torch.device
    processor: list[float] = field(default_factory=list)
    passed: list[float] = field(default_factory=list)

    def time(self, way: Callable[[], T]) -> T:
        """Call `way`, and take its time."""
        self._wait()
        start = time.process_time(), time.perf_counter()
        result = way()
        self._wait()
        self.processor.append(time.process_time() - start[0])
        self.passed.append(time.perf_counter() - start[1])
        return result

    @property
    def counted(self) -> list[float]:
        """The times that ratios are made of."""
        return self.processor if self.device.type == "cpu" else self.passed

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Comparison(Generic[T]):
    """What `compare` found.

    Attributes:
        row: for the table and the JSON file.
        reference, ours: the outputs.
    """

    row: dict[str, Any]
    reference: T
    ours: T


def compare(
    case: str,
    reference: Callable[[], T],
    ours: Callable[[], T],
    difference: Callable[[T, T], float],
    settings: BenchmarkSettings,
    *,
    warm_up: bool = True,
) -> Comparison[T]:
    """Time both ways in turn, and compare what they return.

    Args:
        case: name of the row.
        reference: the naive way.
        ours: of the same inputs.
        difference: the largest absolute difference of the two outputs.
        settings: `repeats` and `device`.
        warm_up: run each way once more before its time is taken.

    Returns:
        The outputs, and a row: "case"; "ratio" = "reference_seconds" / "our_seconds", medians of
        processor seconds on a CPU and of passed seconds elsewhere; "max_abs_diff"; "device";
        "wall_ratio" of the passed seconds.
    """
    ways = reference, ours
    device = torch.device(settings.device)
    watches = Stopwatch(device), Stopwatch(device)
    outputs: list[T] = []
    if warm_up:
        outputs = [way() for way in ways]
    for turn in range(settings.repeats):
        for way, watch in zip(ways, watches):
            output = watch.time(way)
            if len(outputs) < len(ways):
                outputs.append(output)
        logger.info("%s: turn %d of %d", case, turn + 1, settings.repeats)
    seconds = [statistics.median(watch.counted) for watch in watches]
    passed = [statistics.median(watch.passed) for watch in watches]
    row = {
        "case": case,
        "ratio": seconds[0] / seconds[1],
        "reference_seconds": seconds[0],
        "our_seconds": seconds[1],
        "max_abs_diff": float(difference(*outputs)),
        "device": settings.device,
        "wall_ratio": passed[0] / passed[1],
    }
    return Comparison(row, *outputs)


def report(name: str, settings: BenchmarkSettings, rows: Sequence[dict[str, Any]]) -> dict:
    """What a benchmark found, for a JSON file; `KEYS` of the first row stand at the top, too."""
    return {
        "benchmark": name,
        "size": settings.size,
        "repeats": settings.repeats,
        "threads": settings.threads,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        **{key: rows[0][key] for key in KEYS},
        "rows": list(rows),
    }


def format_table(result: Mapping[str, Any]) -> str:
    """A report as text: `KEYS`, and behind them whatever else a row says."""
    lines = []
    for row in result["rows"]:
        more = [f"{key}={_shown(row[key])}" for key in row if key not in (*KEYS, "case")]
        lines.append([row["case"], *(_shown(row[key]) for key in KEYS), " ".join(more)])
    header = ["case", "ratio", "reference, s", "ours, s", "max abs diff", "device", "more"]
    facts = " ".join(
        f"{key}={result[key]}" for key in ("size", "repeats", "threads", "cores", "load")
    )
    table = tabulate(lines, header, tablefmt="pipe", disable_numparse=True)
    return f"{result['benchmark']}: {facts}\n\n{table}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
