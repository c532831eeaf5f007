"""The demo on a part of its gallery and the instant schedule."""

from __future__ import annotations

import json
import time

import pytest

from ..programs import load_tool, restored_loggers
from .conftest import INSTANT, UNREFINED


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder, and a function that runs it there: (*arguments) -> its summary."""
    tool = load_tool("demo")
    output = tmp_path_factory.mktemp("demo") / "output"

    def run(*arguments: str) -> dict:
        given = ["--output", str(output), "--config-file", str(INSTANT), "--instances", "2"]
        with restored_loggers():
            return tool.main([*given, *arguments])

    return output, run


def test_the_demo_goes_from_nothing_to_a_report_and_shows_it_again(demo, capsys) -> None:
    output, run = demo
    start = time.monotonic()
    first = run("SPIL.TRAIN_TOP_K", "5", *UNREFINED)
    middle = time.monotonic()
    assert (output / "report.html").stat().st_size > 10_000
    assert json.loads((output / "summary.json").read_text()) == json.loads(json.dumps(first))
    said = capsys.readouterr().out
    assert "report.html" in said and f"{first['miou_final']:.3f}" in said

    again = run("SPIL.TRAIN_TOP_K", "5", *UNREFINED)
    assert time.monotonic() - middle < (middle - start) / 2
    seconds = first.pop("seconds"), again.pop("seconds")
    assert seconds[1] >= seconds[0]
    assert again == first


def test_a_fresh_demo_forgets_the_earlier_one(demo, monkeypatch) -> None:
    output, run = demo
    (output / "leftover").touch()
    with pytest.raises(ValueError, match="SEED is -2"):
        run("--fresh", "SEED", "-2")
    assert not (output / "leftover").exists()
    assert (output / "gallery" / "manifest.json").exists()
