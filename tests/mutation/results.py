"""What mutmut writes, and the rules that say which mutants no test can notice."""

from __future__ import annotations

import ast
import difflib
import fnmatch
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..programs import ROOT

MUTANTS = ROOT / "mutants"
RULES = Path(__file__).with_name("equivalent")
_SURVIVED, _NO_TESTS = 0, (5, 33)
"""Exit statuses that mutmut writes down; all others are failures of a test or of the process."""


@dataclass(frozen=True)
class Mutant:
    """A broken function.

    Attributes:
        file: "spil_d2/ops/boxes.py".
        name: of the function, with the mutant's number.
        change: "-old +new", the lines that differ; "" where no test reaches the function.
        lives: no test has noticed.
    """

    file: str
    name: str
    change: str
    lives: bool

    @property
    def layer(self) -> str:
        """The folder of its file."""
        return self.file.split("/")[1]


@dataclass(frozen=True)
class Rule:
    """Why mutants are equivalent.

    Attributes:
        change: regular expression that is found in `Mutant.change`.
        file, function: patterns of the shell; a function as "name" or "Class.name".
        reason: what the change cannot do.
    """

    change: str
    reason: str
    file: str = "*"
    function: str = "*"


def read_rules(folder: Path = RULES) -> list[Rule]:
    """The rules of the TOML files of a folder, in the order of their names.

    Raises:
        TypeError: for another key than those of Rule.
    """
    files = [tomllib.loads(path.read_text()) for path in sorted(folder.glob("*.toml"))]
    return [Rule(**one) for file in files for one in file["rule"]]


def reason_of(mutant: Mutant, rules: Sequence[Rule]) -> str | None:
    """The reason of the first rule that holds for a mutant, or None."""
    function = mutant.name.rpartition(" ")[0]
    for rule in rules:
        if (
            re.search(rule.change, mutant.change)
            and fnmatch.fnmatch(mutant.file, rule.file)
            and fnmatch.fnmatch(function, rule.function)
        ):
            return rule.reason
    return None


def read_mutants(folder: Path) -> Iterator[Mutant]:
    """The mutants that were tried, in the order of files and numbers.

    Args:
        folder: `mutants/`, where mutmut has put its copy of the project.
    """
    for meta in sorted(folder.rglob("*.meta")):
        source = meta.with_suffix("")
        statuses = json.loads(meta.read_text())["exit_code_by_key"]
        functions = _functions(source) if _SURVIVED in statuses.values() else {}
        for key, status in statuses.items():
            if status is None:
                continue
            word = key.rpartition(".")[2]
            yield Mutant(
                file=source.relative_to(folder).as_posix(),
                name=_readable(word),
                change=_change(functions, word) if status == _SURVIVED else "",
                lives=status in (_SURVIVED, *_NO_TESTS),
            )


def _functions(source: Path) -> dict[str, list[str]]:
    """Name of each function of a file -> its lines, stripped."""
    text = source.read_text()
    lines = text.splitlines()
    return {
        node.name: [line.strip() for line in lines[node.lineno - 1 : node.end_lineno]]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    }


def _change(functions: Mapping[str, list[str]], word: str) -> str:
    original = word.rpartition("_")[0] + "_orig"
    one, other = ([line.replace(name, "") for line in functions[name]] for name in (original, word))
    differing = difflib.unified_diff(one, other, lineterm="", n=0)
    return " ".join(line for line in differing if not line.startswith(("---", "+++", "@@")))


def _readable(word: str) -> str:
    """ "xǁClassǁmethod__mutmut_3" -> "Class.method 3"."""
    function, number = word.split("__mutmut_")
    parts = function.split("ǁ")
    return f"{'.'.join(parts[1:]) if len(parts) > 1 else function.removeprefix('x_')} {number}"
