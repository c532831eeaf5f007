"""Measuring memory: a process of its own for each measurement."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

_KIB_A_MIB = 1024


@dataclass(frozen=True)
class Measured:
    """What a call returned and took.

    Attributes:
        result: what it returned.
        seconds: of the processor, all threads.
        wall_seconds: that passed.
        peak_mib: most resident memory of its process, the program itself included.
        start_mib: before the call, with all imported.
    """

    result: Any
    seconds: float
    wall_seconds: float
    peak_mib: float
    start_mib: float


def measure_in_own_process(function: Callable[..., Any], *args: Any, threads: int = 1) -> Measured:
    """Call a function in a new process, whose largest memory is then the function's own.

    Args:
        function: of a module, as its name goes to the process, and so do `args` and the result.
        threads: of the numerical libraries.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (function, args, threads))


def _measure(function: Callable[..., Any], args: tuple, threads: int) -> Measured:
    before = _peak_mib()
    with threadpool_limits(threads):
        start = time.process_time(), time.perf_counter()
        result = function(*args)
        seconds = time.process_time() - start[0], time.perf_counter() - start[1]
    return Measured(result, *seconds, _peak_mib(), before)


def _peak_mib() -> float:
    # Not getrusage: what it says of a process starts with what the parent had.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / _KIB_A_MIB
    raise OSError("/proc/self/status says nothing of VmHWM: the benchmark needs Linux")
