"""docs/PAPER_TO_CODE.md names code and tests that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from spil_d2 import get_cfg

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "PAPER_TO_CODE.md"
AGAINST = ("loop", "closed form", "worked example", "library", "published", "rule", "run")
"""What a test may hold its code against; the page says what each word means."""
HEADER = ["equation or claim", "code", "test", "against"]
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")


@dataclass(frozen=True)
class Row:
    """A row of a table, with the number of its line."""

    line: int
    cells: tuple[str, ...]


def read_rows(text: str) -> Iterator[Row]:
    """The rows of all tables, headers and rules between them left out."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells != HEADER and not all(set(cell) <= {"-"} for cell in cells):
            yield Row(number, tuple(cells))


@cache
def defined(path: Path) -> frozenset[str]:
    """Names that a module and its classes define: `name`, and `Class.name` of what is inside."""
    names: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            found = []
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found = [node.name]
            elif isinstance(node, ast.Assign):
                found = [one.id for one in node.targets if isinstance(one, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found = [node.target.id]
            names.update(prefix + name for name in found)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")

    collect(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return frozenset(names)


def problems_of(row: Row, config: CfgNode) -> list[str]:
    """Everything in a row that is not there."""
    if len(row.cells) != len(HEADER):
        return [f"{len(row.cells)} cells"]
    _, code, test, against = row.cells
    found = [*_bad_names(code, "spil_d2", config), *_bad_names(test, "tests", config)]
    if not re.search(r"`[\w/.-]+(\.py|\.yaml)`", code):
        found.append("no file of code")
    if not re.search(r"`test_\w+`", test):
        found.append("no test")
    if unknown := [one for one in against.split(", ") if one not in AGAINST]:
        found.append(f"against {unknown}, known are {AGAINST}")
    return found


def _bad_names(cell: str, room: str, config: CfgNode) -> Iterator[str]:
    path: Path | None = None
    for name in re.findall(r"`([^`]+)`", cell):
        if name.endswith((".py", ".yaml")):
            places = [ROOT / room / name, ROOT / name]
            path = next((one for one in places if one.is_file()), None)
            if path is None:
                yield f"there is no file {name}"
        elif _KEY.fullmatch(name):
            node = config
            for part in name.split("."):
                if not isinstance(node, CfgNode) or part not in node:
                    yield f"there is no key {name}"
                    break
                node = node[part]
        elif path is None:
            yield f"no file stands before {name}"
        elif path.suffix == ".py" and name not in defined(path):
            yield f"{path.relative_to(ROOT)} does not define {name}"


def test_everything_that_the_page_names_exists() -> None:
    rows, config = list(read_rows(PAGE.read_text(encoding="utf-8"))), get_cfg()
    bad = [f"{PAGE.name}:{row.line}: {one}" for row in rows for one in problems_of(row, config)]
    assert not bad, "\n".join(bad)
    assert len(rows) > 100


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("| a | `ops/boxes.py` `two_sigma_box` | `ops/test_boxes.py` `test_none` | loop |",
         "does not define test_none"),
        ("| a | `ops/boxes.py` `gone` | `ops/test_boxes.py` | loop |", "does not define gone"),
        ("| a | `ops/gone.py` | `ops/test_boxes.py` | loop |", "no file ops/gone.py"),
        ("| a | `SPIL.TAUS` | `ops/test_boxes.py` | loop |", "no key SPIL.TAUS"),
        ("| a | `ops/boxes.py` | - | loop |", "no test"),
        ("| a | - | `ops/test_boxes.py` | loop |", "no file of code"),
        ("| a | `ops/boxes.py` | `ops/test_boxes.py` | hope |", "against ['hope']"),
        ("| a | `ops/boxes.py` |", "2 cells"),
    ],
)  # fmt: skip
def test_each_kind_of_rot_is_seen(line: str, problem: str) -> None:
    (row,) = read_rows(line)
    assert any(problem in one for one in problems_of(row, get_cfg()))


def test_classes_and_constants_are_found() -> None:
    names = defined(ROOT / "spil_d2" / "engine" / "stages.py")
    assert {"StagePlan", "StagePlan.stage_of", "StagePlan.max_iter"} <= names
    assert "stage_of" not in names
    assert "AP_VARIANTS" in defined(ROOT / "spil_d2" / "evaluation" / "ranking.py")
