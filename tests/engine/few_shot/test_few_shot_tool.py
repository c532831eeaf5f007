"""tools/few_shot.py runs every row once and puts the results into a table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from spil_d2 import get_cfg

from ...programs import load_tool, restored_loggers, train_net_here
from .conftest import INSTANT


@pytest.fixture(scope="module")
def tool():
    return load_tool("few_shot")


def facts(*values: float | None) -> dict:
    metrics = [dict.fromkeys(("nAP", "nAP50", "nAP75"), v) for v in values]
    return {
        str(seed): {"metrics": one, "world_size": 1, "batch_size": 4}
        for seed, one in enumerate(metrics)
    }


def test_the_table_has_means_and_intervals(tool) -> None:
    table = tool.build_table(
        {"stages": {"5": facts(10.0, 12.0, 14.0)}, "qe": {"5": facts(9.0), "10": facts(9.0, None)}}
    )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    # Student's t for two degrees of freedom is 4.303, and the deviation of the three is 2.
    half = 4.302653 * 2 / math.sqrt(3)
    assert lines[2] == ["stages", "5", "3", *[f"12.0 ± {half:.1f}"] * 3, "1 x 4"]
    assert lines[3] == ["qe", "5", "1", "9.0", "9.0", "9.0", "1 x 4"]
    assert lines[4] == ["qe", "10", "2", "-", "-", "-", "1 x 4"]


def test_what_makes_no_sense_is_refused(tool, capsys) -> None:
    for arguments, message in (
        (["--rows", "stages,qee"], "unknown rows qee"),
        (["--rows", "tfa"], "--tfa-config"),
        (["--rows", "gamma"], "gamma needs the row qe before it"),
        (["--rows", "base", "--shots", "one"], "whole numbers"),
    ):
        with pytest.raises(SystemExit):
            tool.parse_arguments(["--config-file", str(INSTANT), *arguments])
        assert message in capsys.readouterr().err


def test_every_row_is_another_configuration(tool) -> None:
    dumps = {}
    for row, changes in tool.ROWS.items():
        cfg = get_cfg()
        cfg.merge_from_list(list(changes))
        dumps[row] = cfg.dump()
    # The baseline has a file of its own.
    del dumps["tfa"]
    assert len(set(dumps.values())) == len(dumps)


def test_rows_are_runs_that_are_gone_on_with(tool, datasets_root, tmp_path, monkeypatch) -> None:
    ran = []

    def run(command: list[str], check: bool) -> None:
        summaries = train_net_here(command, check)
        ran.append((Path(command[-1]).relative_to(tmp_path).as_posix(), summaries))

    monkeypatch.setattr(tool, "subprocess", SimpleNamespace(run=run))
    arguments = ["--config-file", str(INSTANT), "--rows", "base,qe,gamma", "--shots", "1"]
    arguments += ["--seeds", "1", "OUTPUT_DIR", str(tmp_path), "FEW_SHOT.QE.AFTER_STAGE", "0"]
    arguments += ["FEW_SHOT.QE.THRESHOLD", "0.02", "FEW_SHOT.QE.TOP_K", "14"]
    with restored_loggers():
        results = tool.main(arguments)
    rows = ["base", "1shot_seed1/base", "1shot_seed1/qe", "1shot_seed1/gamma"]
    assert [name for name, _ in ran] == rows
    assert json.loads((tmp_path / "few_shot.json").read_text()) == results
    assert len((tmp_path / "few_shot.md").read_text().splitlines()) == 5
    one = results["gamma"]["1"]["1"]
    assert one["shots_used"] == 2 and one["expansion"] == results["qe"]["1"]["1"]["expansion"] > 0
    assert results["base"]["1"]["1"]["expansion"] == 0
    assert not (tmp_path / "1shot_seed1" / "gamma" / "stages").exists()


def test_the_row_tfa_is_two_steps_and_reads_what_the_second_leaves(
    tool, datasets_root, tmp_path, monkeypatch
) -> None:
    steps = []

    def train_net(self, config_file: str, output: Path, *changes: str) -> None:
        keys = dict(zip(changes[::2], changes[1::2]))
        steps.append((Path(config_file).name, output.relative_to(tmp_path).as_posix(), keys))
        folder = output / "inference" / f"{self._cfg.FEW_SHOT.DATASET}_test"
        folder.mkdir(parents=True)
        # As `train_tfa` writes it (test_tfa.py).
        results = {"metrics": {"nAP": 4.0, "nAP50": 8.0, "nAP75": 2.0}, "batch_size": 8}
        (folder / "few_shot.json").write_text(json.dumps(results))

    monkeypatch.setattr(tool.Experiment, "_train_net", train_net)
    arguments = ["--config-file", str(INSTANT), "--tfa-config", "tfa.yaml", "--rows", "tfa"]
    results = tool.main([*arguments, "--shots", "1", "--seeds", "0", "OUTPUT_DIR", str(tmp_path)])
    assert [(name, place) for name, place, _ in steps] == [
        ("tfa.yaml", "tfa_base"),
        ("tfa.yaml", "1shot_seed0/tfa"),
    ]
    # Both name a draw that was asked for: the data may have no other.
    for _, _, keys in steps:
        assert (keys["FEW_SHOT.SHOTS"], keys["FEW_SHOT.SEED"]) == ("1", "0")
    assert steps[1][2]["MODEL.WEIGHTS"] == str(tmp_path / "tfa_base" / "detector.pth")
    assert results["tfa"]["1"]["0"]["metrics"]["nAP50"] == 8.0
    assert "| 4.0" in (tmp_path / "few_shot.md").read_text()
