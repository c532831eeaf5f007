"""`tools/compare_localizers.py` on the instant configuration, with models of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from spil_d2 import get_cfg
from spil_d2.engine import localizer_table
from spil_d2.engine.checkpoint import save_weights
from spil_d2.engine.cycle_data import CycleData
from spil_d2.engine.cycle_evaluation import evaluate_system
from spil_d2.engine.cycle_models import CycleConfigs
from spil_d2.engine.localizer import Localizer, LocalizerSettings
from spil_d2.engine.pair_trainer import load_localizer
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.ranker_inference import EmbedderSettings, RegionEmbedder
from spil_d2.engine.ranker_trainer import load_ranker

from ..programs import ROOT, load_tool, restored_loggers

INSTANT = ROOT / "configs" / "quick_schedules" / "cst_tiny_instant_test.yaml"
OPTS = (
    *("SEARCH.BACKBONE", "build_efficientnet_lite_backbone"),
    *("SEARCH.DESCRIPTOR_LAYERS", "['c4']", "SEARCH.LONGER_SIDE", "96"),
    *("CST.SHARE_IOU", "1.0", "CST.BOXES_PER_IMAGE", "6"),
)
NAMES = ["whole_image", "grid", "detector", "local_search_full", "globaltrack"]
MEASURED = [name for name in NAMES if name != "detector"]


@pytest.fixture(scope="module")
def cycle_folder(datasets_root, tmp_path_factory) -> Path:
    """OUTPUT_DIR of a cycle that has its pretrained models and no round."""
    output = tmp_path_factory.mktemp("cycle")
    configs = CycleConfigs.from_config(_config(output))
    torch.manual_seed(0)
    for part, cfg in (("localizer", configs.localizer_round), ("ranker", configs.ranker_round)):
        folder = output / "pretrained" / part
        folder.mkdir(parents=True)
        save_weights(build_model(cfg), folder / f"{part}.pth")
    return output


def _config(output: Path, *opts: str):
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.merge_from_list([*OPTS, *opts, "OUTPUT_DIR", str(output)])
    resolve_config(cfg)
    cfg.freeze()
    return cfg


@pytest.fixture(scope="module")
def compare(cycle_folder) -> Callable[..., list[dict]]:
    """(output folder, names, *arguments) -> the rows of the table."""
    tool = load_tool("compare_localizers")

    def run(output: Path, names: list[str], *arguments: str) -> list[dict]:
        given = ["--config-file", str(INSTANT), "--localizers", ",".join(names), *arguments]
        given += ["--output", str(output), *OPTS, "OUTPUT_DIR", str(cycle_folder)]
        with restored_loggers():
            return tool.main(given)

    return run


@pytest.fixture(scope="module")
def measured(compare, tmp_path_factory) -> tuple[Path, list[dict]]:
    output = tmp_path_factory.mktemp("table")
    return output, compare(output, NAMES)


def test_every_localizer_has_a_row_with_and_one_without_ranker(measured) -> None:
    output, rows = measured
    done = [row for row in rows if "reason" not in row]
    expected = [(name, ranker) for name in MEASURED for ranker in ("no", "yes")]
    assert [(row["localizer"], row["ranker"]) for row in done] == expected
    for without, with_ranker in zip(done[::2], done[1::2]):
        assert without["localizer/recall"] == with_ranker["localizer/recall"]
        assert 0 < without["seconds_per_image"] < with_ranker["seconds_per_image"]
    for row in done:
        keys = [key for key in row if key.startswith(("localizer/", "system/"))]
        assert len(keys) == 7 and all(0 <= row[key] <= 100 for key in keys)
    assert json.loads((output / "table.json").read_text())["rows"] == rows
    text = (output / "table.md").read_text()
    assert "Not measured: detector: SEARCH.DETECTOR.CONFIG_FILE is not set" in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == 1 + len(done)


def test_globaltrack_with_ranker_is_the_system_of_the_cycle(measured, cycle_folder) -> None:
    cfg = _config(cycle_folder, "TEST.DETECTIONS_PER_IMAGE", "20")
    data, configs = CycleData.from_config(cfg), CycleConfigs.from_config(cfg)
    folder = cycle_folder / "pretrained"
    model = load_localizer(configs.localizer_round, folder / "localizer" / "localizer.pth")
    settings = LocalizerSettings.from_config(configs.localizer_round)
    ranker = load_ranker(configs.ranker_round, folder / "ranker" / "ranker.pth")
    expected = evaluate_system(
        Localizer(model, data.test, data.queries, settings),
        RegionEmbedder(ranker, EmbedderSettings.from_config(configs.ranker_round)),
        data,
        boxes_per_image=cfg.CST.BOXES_PER_IMAGE,
        share_iou=cfg.CST.SHARE_IOU,
    )
    row = measured[1][-1]
    assert expected is not None and expected["system/mAP"] > 0
    assert row["localizer"] == "globaltrack" and row["ranker"] == "yes"
    assert row["system/mAP"] == pytest.approx(expected["system/mAP"])
    assert row["system/rank-1"] == expected["system/rank-1"]
    assert row["localizer/recall"] == expected["localizer/Recall@20"]
    assert row["localizer/mAP"] == pytest.approx(expected["localizer/mAP"])


def test_what_was_measured_is_found_again(measured, compare, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(localizer_table, "build_baseline", refuse)
    monkeypatch.setattr(localizer_table, "rank_regions", refuse)
    output, rows = measured
    assert compare(output, MEASURED) == [row for row in rows if "reason" not in row]


def test_a_killed_table_goes_on_behind_its_last_localizer(compare, tmp_path, monkeypatch) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(localizer_table, "rank_regions", die)
        with pytest.raises(KeyboardInterrupt):
            compare(tmp_path, ["whole_image"])
    assert len(list((tmp_path / "rows").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(localizer_table, "build_baseline", die)
        rows = compare(tmp_path, ["whole_image"])
    assert [row["ranker"] for row in rows] == ["no", "yes"]


def test_unknown_localizers_and_missing_weights_are_refused(compare, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        compare(tmp_path, ["magic"])
    assert "--localizers magic: use some of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare(tmp_path, ["grid"], "--ranker-weights", "nowhere.pth")
    assert "nowhere.pth: there is no such file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
