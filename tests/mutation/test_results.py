"""The report on mutants, on a folder as mutmut leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import __main__ as program
from .results import Mutant, Rule, read_mutants, read_rules, reason_of

# mutmut writes each function once as it was and once for each mutant, and a method under the name
# of its class.
SOURCE = """
def x_half__mutmut_orig(value):
    return value / 2

def x_half__mutmut_1(value):
    return value * 2

def x_half__mutmut_2(value):
    return value / 3

class Box:
    def xǁBoxǁside__mutmut_orig(self):
        first = self.low
        return abs(first)

    def xǁBoxǁside__mutmut_1(self):
        first = None
        return abs(first)
"""
STATUSES = {"x_half__mutmut_1": 1, "x_half__mutmut_2": 0, "xǁBoxǁside__mutmut_1": 0}


@pytest.fixture
def mutants(tmp_path) -> Path:
    """`mutants/` with a file of layer "ops": three mutants, of which two live; a fourth waits."""
    source = tmp_path / "spil_d2" / "ops" / "shapes.py"
    source.parent.mkdir(parents=True)
    source.write_text(SOURCE)
    keys = {f"spil_d2.ops.shapes.{name}": status for name, status in STATUSES.items()}
    waiting = {"spil_d2.ops.shapes.x_half__mutmut_3": None}
    meta = {"exit_code_by_key": {**keys, **waiting}}
    source.with_name("shapes.py.meta").write_text(json.dumps(meta))
    return tmp_path


def test_mutants_are_read_with_what_they_change(mutants) -> None:
    noticed, half, side = read_mutants(mutants)
    assert (noticed.lives, half.lives, side.lives) == (False, True, True)
    assert half.name == "half 2" and half.change == "-return value / 2 +return value / 3"
    assert side.name == "Box.side 1" and side.change == "-first = self.low +first = None"
    assert side.file == "spil_d2/ops/shapes.py" and side.layer == "ops"


@pytest.mark.parametrize("status", [5, 33])
def test_what_no_test_reaches_lives(mutants, status: int) -> None:
    meta = mutants / "spil_d2" / "ops" / "shapes.py.meta"
    meta.write_text(
        json.dumps({"exit_code_by_key": {"spil_d2.ops.shapes.x_half__mutmut_1": status}})
    )
    assert list(read_mutants(mutants)) == [Mutant("spil_d2/ops/shapes.py", "half 1", "", True)]


def test_a_rule_holds_for_its_change_file_and_function() -> None:
    mutant = Mutant("spil_d2/ops/shapes.py", "Box.side 1", "-a = 1 +a = None", True)
    assert reason_of(mutant, [Rule("= 2", "no"), Rule(r"\+a = None", "first"), Rule("a", "x")]) == (
        "first"
    )
    assert reason_of(mutant, [Rule("a", "it", "*/ops/*", "Box.side")]) == "it"
    for other in (Rule("a", "no", file="*/data/*"), Rule("a", "no", function="Box.sid")):
        assert reason_of(mutant, [other]) is None


def test_the_rules_of_the_project_are_read() -> None:
    rules = read_rules()
    assert rules and all(one.reason and one.change for one in rules)


def test_the_report_names_survivors_and_fails_with_too_many(mutants, capsys) -> None:
    assert program.main(["--mutants", str(mutants)]) == 1
    said = capsys.readouterr().out
    assert "shapes.py half 2: -return value / 2 +return value / 3" in said
    row = next(line for line in said.splitlines() if line.startswith("ops")).split()
    assert row == ["ops", "3", "1", "0", "2", "33.3", "33.3"]


def test_an_empty_folder_is_an_error(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        program.main(["--mutants", str(tmp_path)])
    assert "run mutmut first" in capsys.readouterr().err
