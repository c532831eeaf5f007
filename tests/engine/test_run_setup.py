"""The seed of a run is known, noted and kept."""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path

import pytest
from detectron2.utils import comm

from spil_d2 import get_cfg
from spil_d2.engine.run_setup import SEED_FILE, add_deterministic_option, settle_seed

from ..programs import ROOT

REPEATABLE = (
    *("train_net", "cycle_self_train", "demo", "few_shot", "ablation"),
    *("compare_localizers", "compare_engines"),
)
"""The tools that train, mine or search."""


def settled(folder: Path, seed: int, *, keep: bool = False) -> int:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(folder), seed
    settle_seed(cfg, keep=keep)
    assert json.loads((folder / SEED_FILE).read_text()) == {"seed": cfg.SEED}
    return cfg.SEED


@pytest.mark.parametrize("keep", [True, False])
def test_a_given_seed_is_taken_noted_and_logged(tmp_path, caplog, keep: bool) -> None:
    settled(tmp_path, 3)
    with caplog.at_level("INFO", logger="spil_d2"):
        assert settled(tmp_path, 7, keep=keep) == 7
    assert "seed 7 (SEED)" in caplog.text


def test_a_drawn_seed_is_noted_logged_and_gone_on_with(tmp_path, caplog) -> None:
    with caplog.at_level("INFO", logger="spil_d2"):
        drawn = settled(tmp_path / "new", -1)
    assert f"seed {drawn} (drawn); SEED {drawn} repeats the run" in caplog.text
    assert settled(tmp_path / "new", -1, keep=True) == drawn
    assert settled(tmp_path / "other", -1, keep=True) != drawn
    # A run that starts anew draws anew.
    assert settled(tmp_path / "new", -1) != drawn


def test_all_processes_have_the_main_ones(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "all_gather", lambda mine: [(99, "drawn"), mine])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path / "none"), -1
    settle_seed(cfg, keep=True)
    assert cfg.SEED == 99
    assert not (tmp_path / "none").exists()


def test_seeds_that_are_none_are_refused(tmp_path) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.SEED = str(tmp_path), -2
    with pytest.raises(ValueError, match="SEED is -2: use 0 or more"):
        settle_seed(cfg, keep=False)
    cfg.SEED = -1
    for text in ("", "[]", '{"seed": null}'):
        (tmp_path / SEED_FILE).write_text(text)
        with pytest.raises(ValueError, match=r"seed\.json holds no seed.*without --resume"):
            settle_seed(cfg, keep=True)


def test_the_option_is_off_unless_given() -> None:
    parser = argparse.ArgumentParser()
    add_deterministic_option(parser)
    assert not parser.parse_args([]).deterministic
    assert parser.parse_args(["--deterministic"]).deterministic


@pytest.mark.parametrize("name", REPEATABLE)
def test_every_tool_that_trains_has_the_option_and_heeds_it(name: str) -> None:
    tree = ast.parse((ROOT / "tools" / f"{name}.py").read_text())
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    passed_on = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert "add_deterministic_option" in called
    assert "make_deterministic" in called or "--deterministic" in passed_on
