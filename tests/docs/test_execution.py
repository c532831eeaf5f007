"""Commands of the documentation that take a second and that no other test runs."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spil_d2.data.datasets.instance_search import check_dataset
from spil_d2.structures import RankLists

from ..programs import ROOT, restored_loggers
from .commands import Statement, find_statements
from .execution import Outcome, Shell


def found(document: str, *parts: str) -> Statement:
    """The first statement of a document that has these parts."""
    return next(one for one in find_statements(document) if all(part in one.text for part in parts))


def test_a_rank_list_of_ones_own_is_made_and_read(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(found("GETTING_STARTED.md", "np.array([7, 3])").text, "made", "exec"), {})
    # What a run would have left, from which the other block reads.
    place = "output/tiny_instre_dev/inference/ins_instre_dev/final_rank_lists.npz"
    Path(place).parent.mkdir(parents=True)
    (one,) = RankLists.load("mine.npz").lists
    RankLists((replace(one, probabilities=np.array([0.8, 0.2], np.float32)),)).save(place)
    reads = found("GETTING_STARTED.md", place, "from spil_d2.structures import RankLists")
    exec(compile(reads.text, "read", "exec"), {})
    assert Path("top10.npz").is_file()
    assert "[7 3]" in capsys.readouterr().out


def test_the_format_of_a_dataset_is_as_it_is_shown(tmp_path) -> None:
    blocks = [one for one in find_statements("datasets/README.md") if one.kind == "json"]
    for name, block in zip(("annotations.json", "queries.json"), blocks, strict=True):
        (tmp_path / name).write_text(block.text)
    sizes = {}
    for record in json.loads((tmp_path / "annotations.json").read_text())["images"]:
        sizes[f"images/{record['file_name']}"] = record["width"], record["height"]
    for record in json.loads((tmp_path / "queries.json").read_text()):
        sizes[record["file_name"]] = record["width"], record["height"]
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(tmp_path / name)
    assert check_dataset(tmp_path) == []


@pytest.mark.parametrize("part", ["estimate_scale.py", "estimate_scale.py --images 1e6 1e7"])
def test_the_computed_table_is_printed(part: str, monkeypatch, capsys) -> None:
    words = shlex.split(found("tools/estimate_scale.py", part).text)
    monkeypatch.setattr(sys, "argv", words[1:])
    with restored_loggers():
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    assert capsys.readouterr().out.count("\n") > 10


def test_statements_run_as_they_would_be_typed(tmp_path) -> None:
    """Variables and the folder stay within a block; a failure has its status and output."""
    (tmp_path / "below").mkdir()
    texts = [
        (1, "D=$PWD/below   "),
        (1, "cd $D && echo here >a.txt"),
        (1, "test -f a.txt"),
        (2, 'test -f below/a.txt && test -z "$D"'),
        (2, "ls no-such-file"),
        (2, "ls no-such-file"),
        (3, "wget http://images.cocodataset.org"),
    ]
    statements = [
        Statement("README.md", line, "shell", text.strip(), block)
        for line, (block, text) in enumerate(texts, 1)
    ]
    outcomes: list[Outcome] = list(Shell(tmp_path, {}, tmp_path / "log.txt").run(statements))
    assert [one.status for one in outcomes] == [0, 0, 0, 0, 2, None, None]
    assert "no-such-file" in outcomes[4].output
    assert outcomes[5].how == "as README.md:5" and outcomes[6].how == "downloads COCO"


def test_make_lists_its_targets(tmp_path) -> None:
    (tmp_path / "Makefile").symlink_to(ROOT / "Makefile")
    shell = Shell(tmp_path, {}, tmp_path / "log.txt")
    (outcome,) = shell.run([Statement("README.md", 1, "shell", "make help")])
    assert outcome.status == 0
    for name in ("setup", "demo", "test", "lint"):
        assert f"make {name}" in outcome.output
