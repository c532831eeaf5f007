"""Measurements that `tools/benchmark.py` runs by name, each against a naive reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from .cache import cache
from .coattention import coattention
from .comparison import KEYS, format_table, report
from .dasr import dasr
from .evaluation import evaluation
from .growth import growth
from .growth_plot import plot_growth
from .multi_query import multi_query
from .search import search
from .settings import SIZES, BenchmarkSettings
from .training import training

BENCHMARKS: dict[str, Callable[[BenchmarkSettings], list[dict[str, Any]]]] = {
    "multi_query": multi_query,
    "cache": cache,
    "dasr": dasr,
    "coattention": coattention,
    "evaluation": evaluation,
    "growth": growth,
    "search": search,
    "training": training,
}
"""Name -> measurement, which returns one row a case; see `comparison.compare`."""

PRESETS: dict[str, tuple[str, ...]] = {
    "multi_query": ("Base-SPIL-tiny.yaml", "Base-CST-tiny.yaml"),
    "cache": ("Base-SPIL-tiny.yaml", "Base-CST-tiny.yaml"),
    "dasr": ("search/dasr_fast.yaml",),
    "coattention": ("Base-SPIL-tiny.yaml",),
    "growth": ("Base-SPIL-tiny.yaml", "CST/tiny_instre_dev.yaml"),
    "training": ("Base-SPIL-fast.yaml",),
}
"""Files of configs/ that a benchmark measures where none are given; others take none."""

PLOTS: dict[str, Callable[[Mapping[str, Any], Path], None]] = {"growth": plot_growth}
"""Name -> what draws the report as a PNG."""


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
    "PLOTS",
    "PRESETS",
    "SIZES",
    "BenchmarkSettings",
    "format_table",
    "report",
    "run_benchmark",
]
