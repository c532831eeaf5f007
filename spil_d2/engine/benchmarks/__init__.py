"""Measurements that `tools/benchmark.py` runs by name, each against a naive reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from .coattention import coattention
from .comparison import KEYS, format_table, report
from .dasr import dasr
from .evaluation import evaluation
from .multi_query import multi_query
from .search import search
from .settings import SIZES, BenchmarkSettings

BENCHMARKS: dict[str, Callable[[BenchmarkSettings], list[dict[str, Any]]]] = {
    "multi_query": multi_query,
    "dasr": dasr,
    "coattention": coattention,
    "evaluation": evaluation,
    "search": search,
}
"""Name -> measurement, which returns one row a case; see `comparison.compare`."""

PRESETS: dict[str, tuple[str, ...]] = {
    "multi_query": ("Base-SPIL-tiny.yaml", "Base-CST-tiny.yaml"),
    "dasr": ("search/dasr_fast.yaml",),
    "coattention": ("Base-SPIL-tiny.yaml",),
}
"""Files of configs/ that a benchmark measures where none are given; others take none."""


def run_benchmark(name: str, settings: BenchmarkSettings) -> dict[str, Any]:
    """Run a measurement with the threads that the settings allow; returns its `report`."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        with threadpool_limits(settings.threads):
            return report(name, settings, BENCHMARKS[name](settings))
    finally:
        torch.set_num_threads(before)


__all__ = [
    "BENCHMARKS",
    "KEYS",
    "PRESETS",
    "SIZES",
    "BenchmarkSettings",
    "format_table",
    "report",
    "run_benchmark",
]
