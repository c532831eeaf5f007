"""`tools/benchmark.py multi_query`: both ways find the same, and the result says how fast."""

from __future__ import annotations

import json

import pytest

from .conftest import load_tool, restored_loggers

SMALL = ["--opts", "MODEL.EFFICIENTNET.VARIANT", "lite0", "MODEL.BF16", "off"]
SMALL += ["INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "128", "MODEL.QUERY.CROP_SIZE", "64"]


@pytest.mark.parametrize("preset", ["Base-SPIL-tiny.yaml", "Base-CST-tiny.yaml"])
def test_multi_query_compares_speed_and_boxes(preset: str, tmp_path) -> None:
    output = tmp_path / "out.json"
    arguments = ["multi_query", "--output", str(output), "--queries", "3", "--repeats", "2"]
    with restored_loggers():
        result = load_tool("benchmark").main([*arguments, "--preset", preset, *SMALL])
    assert json.loads(output.read_text()) == result
    assert result["device"] == "cpu" and result["num_queries"] == 3
    (measured,) = result["presets"].values()
    assert measured["ratio"] == pytest.approx(measured["separate_s"] / measured["batched_s"])
    assert measured["same_counts"] and measured["num_boxes"] >= 3
    assert measured["max_box_difference"] < 0.01
    assert measured["max_probability_difference"] < 1e-4


def test_unknown_presets_and_benchmarks_are_named(capsys) -> None:
    for arguments in (["multi_query", "--preset", "No.yaml"], ["speed_of_light"]):
        with pytest.raises(SystemExit):
            load_tool("benchmark").main(arguments)
    message = capsys.readouterr().err
    assert "No.yaml" in message and "multi_query" in message
