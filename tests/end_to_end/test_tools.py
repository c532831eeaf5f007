"""The small tools on the output of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cv2
import pytest
import yaml

from spil_d2.structures import SamplePool

from ..programs import ROOT, load_tool, restored_loggers
from .conftest import INSTANT


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


def test_the_ablation_trains_its_rows_on_one_search(datasets_root, tmp_path) -> None:
    command = [sys.executable, "tools/ablation.py", "--rows", "SP,SP+CA"]
    command += ["--config-file", str(INSTANT), "OUTPUT_DIR", str(tmp_path)]
    command += ["SPIL.STAGE_TOP_K", "6"]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets_root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    summaries = json.loads((tmp_path / "ablation.json").read_text())
    assert list(summaries) == ["SP", "SP+CA"]
    assert summaries["SP"]["miou_search"] == summaries["SP+CA"]["miou_search"]
    before, last = summaries["SP"]["miou_stage"]
    assert before is None, "a stage whose lists were localized in part has no metric"
    assert 0 < last < 1
    for row, is_masked in (("SP", False), ("SP+CA", True)):
        used = yaml.safe_load((tmp_path / row / "config.yaml").read_text())
        assert used["COATTENTION"]["ENABLED"] is is_masked
        assert used["SPIL"]["CONTRASTIVE"] is False
        pool = SamplePool.load(tmp_path / row / "stages" / "00" / "pool.json.gz")
        assert all((one.reference.mask is not None) is is_masked for one in pool.queries)
    assert "| SP+CA" in (tmp_path / "ablation.md").read_text()


def test_indexing_is_measured_and_checked(tmp_path) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "measured"
    options = ["--count", "20", "--large", "0", "--scikit-only"]
    load_tool("make_mixed_folder").main([str(pictures), *options])
    tool = load_tool("measure_indexing")
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
