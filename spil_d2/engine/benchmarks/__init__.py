"""Measurements that `tools/benchmark.py` runs by name."""

from __future__ import annotations

from collections.abc import Callable

from .multi_query import multi_query
from .settings import BenchmarkSettings

BENCHMARKS: dict[str, Callable[[BenchmarkSettings], dict]] = {"multi_query": multi_query}
"""Name -> measurement, whose result goes into a JSON file."""

__all__ = ["BENCHMARKS", "BenchmarkSettings", "multi_query"]
