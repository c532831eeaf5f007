"""Growth with the gallery: slopes, what is compared, the small size, the plot."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spil_d2.engine.benchmarks import PLOTS, PRESETS, BenchmarkSettings, run_benchmark
from spil_d2.engine.benchmarks.growth import growth_row
from spil_d2.engine.benchmarks.growth_parts import Step
from spil_d2.engine.benchmarks.own_process import Measured

CONFIGS = Path(__file__).parents[3] / "configs"
SIZES = [10, 20, 40, 80]


def _measured(seconds: float, own_mib: float, outputs: dict) -> Measured:
    step = Step(seconds, own_mib, outputs, {"pairs": 3})
    return Measured(step, seconds, seconds, own_mib + 5, 1.0)


def _row(power: float) -> dict[str, Any]:
    outputs = {"a": np.array([1.0, 2.0]), "b": np.array([3.0])}
    last = {"a": np.array([1.0, 2.25]), "c": np.array([9.0])}
    return growth_row(
        "case",
        SIZES,
        [
            _measured(0.5 * (n / 10) ** power, 100 + n / 1024, last if n == 80 else outputs)
            for n in SIZES
        ],
        "cpu",
    )


def test_a_row_has_the_exponent_the_slope_of_memory_and_the_largest_difference() -> None:
    row = _row(2.0)
    assert row["exponent"] == pytest.approx(2.0)
    assert row["bytes_per_image"] == pytest.approx(1024, rel=1e-6)
    assert _row(1.0)["seconds_per_image"] == pytest.approx(0.05)
    assert row["reference_seconds"] == pytest.approx(4.0) and row["our_seconds"] == 32.0
    assert row["ratio"] == pytest.approx(1 / 8)
    assert (row["compared"], row["max_abs_diff"]) == (1, 0.25)
    assert row["seconds"] == [0.5, 2.0, 8.0, 32.0] and row["pairs"] == [3] * 4
    assert _row(1.0)["ratio"] == pytest.approx(1.0)


def test_galleries_without_a_common_output_are_an_error() -> None:
    with pytest.raises(ValueError, match="none of the 1 outputs"):
        growth_row(
            "case",
            [1, 2],
            [_measured(1, 1, {"a": np.zeros(1)}), _measured(1, 1, {"b": np.zeros(1)})],
            "cpu",
        )


def test_the_small_size_finds_the_same_in_both_galleries(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: Callable[..., Any], *args: Any, threads: int = 1) -> Measured:
        return Measured(function(*args), 1.0, 1.0, 2.0, 1.0)

    module = sys.modules["spil_d2.engine.benchmarks.growth"]
    monkeypatch.setattr(module, "measure_in_own_process", here)
    files = tuple(CONFIGS / one for one in PRESETS["growth"])
    result = run_benchmark("growth", BenchmarkSettings(size="small", config_files=files))
    rows = {row["case"]: row for row in result["rows"]}
    assert list(rows) == [
        *("index", "self-paced stage", "CST round"),
        *("index, made-up regions", "search, made-up regions", "DBSCAN"),
    ]
    for row in rows.values():
        # With two sizes the slope is that of the straight line through both.
        linear = row["reference_seconds"] / 2
        assert row["exponent"] == pytest.approx(math.log2(row["our_seconds"] / linear))
        assert row["compared"] > 0 and row["images"][1] == 2 * row["images"][0]
        assert row["max_abs_diff"] < 0.05
    assert rows["index"]["compared"] == 4 and rows["index"]["max_abs_diff"] == 0
    assert rows["index"]["regions"] == [4 * 19, 8 * 19]
    stage = rows["self-paced stage"]
    assert stage["queries"] == [1, 1] and stage["pairs"] == [4, 8]
    assert rows["CST round"]["boxes"] == [4 * 3, 8 * 5]
    assert rows["search, made-up regions"]["max_abs_diff"] < 1e-5
    assert rows["DBSCAN"]["max_abs_diff"] == 0


def test_growth_needs_two_presets() -> None:
    with pytest.raises(ValueError, match="give two"):
        run_benchmark("growth", BenchmarkSettings(size="small"))


def test_the_plot_is_a_picture_with_every_row_s_colour(tmp_path: Path) -> None:
    other = {**_row(2.0), "case": "other", "own_mib": [150] * 4}
    report = {"benchmark": "growth", "rows": [_row(1.0), other]}
    PLOTS["growth"](report, tmp_path / "growth.png")
    picture = cv2.imread(str(tmp_path / "growth.png"))
    assert picture.shape[1] > 1.5 * picture.shape[0] > 600
    for red, green, blue in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        is_near = np.abs(picture - np.array([blue, green, red])).sum(axis=2) < 12
        assert all(half.sum() > 50 for half in np.array_split(is_near, 2, axis=1))
    assert (picture == 255).all(axis=2).mean() > 0.7
    with pytest.raises(ValueError, match="'search' has no growth"):
        PLOTS["growth"]({"benchmark": "search", "rows": []}, tmp_path / "other.png")
