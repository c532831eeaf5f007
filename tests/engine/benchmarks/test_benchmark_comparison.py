"""Timing two ways, and what goes into tables and files."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from spil_d2.engine.benchmarks import KEYS, BenchmarkSettings, format_table, report
from spil_d2.engine.benchmarks.comparison import compare
from spil_d2.engine.benchmarks.own_process import measure_in_own_process


def _compute(seconds: float, value: float, calls: list[float]) -> float:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    calls.append(value)
    return value


@pytest.mark.parametrize("warm_up", [True, False])
def test_both_ways_run_in_turn_and_processor_time_counts(warm_up: bool) -> None:
    calls: list[float] = []
    settings = BenchmarkSettings(repeats=3)
    measured = compare(
        "case",
        lambda: _compute(0.04, 5.0, calls),
        lambda: _slow(calls),
        lambda one, other: abs(one - other),
        settings,
        warm_up=warm_up,
    )
    assert calls == [5.0, 3.5] * (4 if warm_up else 3)
    row = measured.row
    assert (measured.reference, measured.ours, row["max_abs_diff"]) == (5.0, 3.5, 1.5)
    assert row["ratio"] == row["reference_seconds"] / row["our_seconds"]
    # The way that sleeps takes more time than it computes.
    assert row["ratio"] > row["wall_ratio"]
    assert row["ratio"] == pytest.approx(4, rel=0.3)


def _slow(calls: list[float]) -> float:
    time.sleep(0.02)
    return _compute(0.01, 3.5, calls)


def test_a_report_has_the_first_row_s_keys_and_all_rows() -> None:
    rows = [
        {**dict.fromkeys(KEYS, number), "case": f"case {number}", "device": "cpu", "recall": 0.25}
        for number in (2.0, 3.0)
    ]
    result = report("name", BenchmarkSettings(size="small"), rows)
    assert [result[key] for key in KEYS] == [2.0, 2.0, 2.0, 2.0, "cpu"]
    assert result["rows"] == rows and result["cores"] == os.cpu_count()
    table = format_table(result)
    assert "case 3" in table and "recall=0.25" in table and "size=small" in table


def test_memory_is_that_of_a_process_of_its_own() -> None:
    kept = np.ones(100 << 20, np.uint8)
    measured = measure_in_own_process(np.ones, 50 << 17)
    assert len(measured.result) == 50 << 17 and len(kept) == 100 << 20
    assert 50 < measured.peak_mib - measured.start_mib < 90
    assert 0 < measured.seconds and 0 < measured.wall_seconds


@pytest.mark.parametrize(
    ("name", "value"), [("size", "huge"), ("repeats", 0), ("threads", 0), ("num_queries", 0)]
)
def test_impossible_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        BenchmarkSettings(**{name: value})
