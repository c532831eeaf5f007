"""Each benchmark in its small size: the naive way and ours find the same."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spil_d2.engine.benchmarks import KEYS, PRESETS, BenchmarkSettings, run_benchmark
from spil_d2.engine.benchmarks.own_process import Measured

CONFIGS = Path(__file__).parents[3] / "configs"


def _run(name: str) -> list[dict[str, Any]]:
    files = tuple(CONFIGS / one for one in PRESETS.get(name, ()))
    result = run_benchmark(name, BenchmarkSettings(size="small", repeats=1, config_files=files))
    assert {key: result[key] for key in KEYS} == {key: result["rows"][0][key] for key in KEYS}
    for row in result["rows"]:
        assert row["ratio"] == pytest.approx(row["reference_seconds"] / row["our_seconds"])
        assert row["device"] == "cpu"
    return result["rows"]


def test_cache_finds_the_same_boxes() -> None:
    for row in _run("cache"):
        assert row["max_abs_diff"] == row["half_diff"] == 0 and row["boxes"] > 0
        assert row["moved_by_rounding"] == 0
        assert row["half_files"] == row["pictures"] // 2 and row["half_share"] <= 0.5
        assert row["bytes_a_picture"] > 0 and row["detect_seconds"] > 0


def test_dasr_finds_the_boxes_of_one_backward_a_peak() -> None:
    full, fast = _run("dasr")
    assert full["max_abs_diff"] < 0.5
    assert full["peaks"] == fast["peaks"] >= full["pictures"] == 2
    assert 0 < fast["mean_iou"] <= 1 and fast["judged"] == 4


def test_coattention_gives_the_same_masks() -> None:
    planted, tiny = _run("coattention")
    assert planted["max_abs_diff"] == tiny["max_abs_diff"] == 0
    assert planted["masks"] == tiny["masks"] == 2
    assert planted["locations"] == 12 * 20 + 5 * 36


def test_evaluation_gives_the_same_precision_and_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(function: Callable[..., Any], *args: Any, threads: int = 1) -> Measured:
        return Measured(function(*args), 1.0, 1.0, 2.0, 1.0)

    for module in ("evaluation", "clustering"):
        where = importlib.import_module(f"spil_d2.engine.benchmarks.{module}")
        monkeypatch.setattr(where, "measure_in_own_process", here)
    judged, clustered = _run("evaluation")
    assert judged["max_abs_diff"] < 1e-12 and 0 < judged["mean_ap"] < 1
    assert judged["whole_boxes"] == 12 * 300
    assert clustered["max_abs_diff"] == 0
    assert clustered["clusters"] == clustered["whole_clusters"] > 50


def test_search_ranks_the_same_images() -> None:
    pytest.importorskip("faiss")
    rows = _run("search")
    assert [row["case"] for row in rows] == ["exact", "faiss", "faiss probed=1.0"]
    for row in rows:
        assert row["max_abs_diff"] < 1e-4
        assert row["recall"] > 0.97
