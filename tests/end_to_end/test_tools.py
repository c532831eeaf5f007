"""The small tools on the output of a run."""

from __future__ import annotations

import json
import multiprocessing
import sys
from types import SimpleNamespace
from unittest import mock

import cv2
import pytest
import yaml

from spil_d2 import cli
from spil_d2.structures import SamplePool

from ..programs import load_tool, restored_loggers


def test_results_are_drawn_a_row_for_each_query(undisturbed, datasets_root, tmp_path) -> None:
    output, _ = undisturbed
    tool = load_tool("draw_results")
    heights = []
    for queries in (["1"], ["1", "2"]):
        path = tool.main(
            [str(output), "ins_mini", "--queries", *queries, "--output", str(tmp_path / "a.png")]
        )
        heights.append(cv2.imread(str(path)).shape[0])
    assert heights[1] > 1.5 * heights[0]


def test_an_unknown_query_is_named(undisturbed, datasets_root, tmp_path, capsys) -> None:
    output, _ = undisturbed
    arguments = [str(output), "ins_mini", "--queries", "999", "--output", str(tmp_path / "a.png")]
    with pytest.raises(SystemExit):
        load_tool("draw_results").main(arguments)
    assert "999" in capsys.readouterr().err


def test_the_ablation_trains_its_rows_on_one_search(ablation) -> None:
    summaries = json.loads((ablation / "ablation.json").read_text())
    assert sorted(summaries) == ["FSOD", "SP", "SP+CA"]
    assert len({one["miou_search"] for one in summaries.values()}) == 1
    before, last = summaries["SP"]["miou_stage"]
    assert before is None, "a stage whose lists were localized in part has no metric"
    assert 0 < last < 1
    for row, is_masked in (("SP", False), ("SP+CA", True)):
        used = yaml.safe_load((ablation / row / "config.yaml").read_text())
        assert used["COATTENTION"]["ENABLED"] is is_masked
        assert used["SPIL"]["CONTRASTIVE"] is False
        pool = SamplePool.load(ablation / row / "stages" / "00" / "pool.json.gz")
        assert all((one.reference.mask is not None) is is_masked for one in pool.queries)
    assert "| SP+CA" in (ablation / "ablation.md").read_text()


class ForkedIndexing:
    """In place of `subprocess.Popen` of `python -m spil_d2.cli`: a fork (see tests/conftest.py)."""

    def __init__(self, command: list[str]) -> None:
        assert command[:3] == [sys.executable, "-m", "spil_d2.cli"]
        self._process = multiprocessing.get_context("forkserver").Process(target=cli.main)
        with mock.patch.object(sys, "argv", command[2:]):
            self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode


def test_indexing_is_measured_and_checked(tmp_path, monkeypatch) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "measured"
    options = ["--count", "20", "--large", "0", "--scikit-only"]
    load_tool("make_mixed_folder").main([str(pictures), *options])
    tool = load_tool("measure_indexing")
    monkeypatch.setattr(tool, "subprocess", SimpleNamespace(Popen=ForkedIndexing))
    monkeypatch.setattr(tool, "PERIOD_S", 0.2)
    with restored_loggers():
        assert tool.main([str(pictures), "--output", str(output), "--kill-at", "1"]) == 0
    report = json.loads((output / "indexing.json").read_text())
    assert report["problems"] == [] and report["images"] + report["unreadable"] == report["files"]
    assert (output / "indexing.png").stat().st_size > 1000
    # What is wrong is found: a picture that is displayed in another size than it was made with.
    kinds = json.loads((pictures / "kinds.json").read_text())
    name = next(key for key, one in kinds.items() if one.get("size") and one["kind"] == "png")
    kinds[name]["size"] = [1, 2]
    (pictures / "kinds.json").write_text(json.dumps(kinds))
    found = tool.check(pictures, output / "index", report["files"] + 1, report["runs"])
    assert len(found["problems"]) == 2 and name in found["problems"][1]
