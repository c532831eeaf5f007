"""`tools/benchmark.py`: the table, the JSON file, and both ways finding the same."""

from __future__ import annotations

import json

import pytest

from ..programs import load_tool, restored_loggers

KEYS = {"ratio", "reference_seconds", "our_seconds", "max_abs_diff", "device"}


@pytest.mark.parametrize("preset", ["Base-SPIL-tiny.yaml", "Base-CST-tiny.yaml"])
def test_multi_query_compares_speed_and_boxes(preset: str, tmp_path, capsys) -> None:
    output = tmp_path / "out.json"
    arguments = ["multi_query", "--size", "small", "--output", str(output), "--queries", "3"]
    with restored_loggers():
        result = load_tool("benchmark").main([*arguments, "--repeats", "1", "--preset", preset])
    assert json.loads(output.read_text()) == result
    assert result["benchmark"] == "multi_query" and result["device"] == "cpu"
    (row,) = result["rows"]
    assert KEYS < set(row) and {key: row[key] for key in KEYS} == {key: result[key] for key in KEYS}
    assert row["ratio"] == pytest.approx(row["reference_seconds"] / row["our_seconds"])
    assert row["num_queries"] == 3 and row["same_counts"] and row["num_boxes"] >= 3
    assert row["max_abs_diff"] < 0.01 and row["max_probability_diff"] < 1e-4
    assert preset.removesuffix(".yaml") in capsys.readouterr().out


def test_unknown_presets_and_benchmarks_are_named(capsys) -> None:
    for arguments in (["multi_query", "--preset", "No.yaml"], ["speed_of_light"]):
        with pytest.raises(SystemExit):
            load_tool("benchmark").main(arguments)
    message = capsys.readouterr().err
    assert "No.yaml" in message and "multi_query" in message
