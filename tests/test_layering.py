"""What the rooms of the package may import, by the ranks of docs/ARCHITECTURE.md.

The rules for all Python of the project are in test_house.py.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "spil_d2"

# A room may import from itself and from rooms of a lower rank. The rooms of rank 0 may use each
# other; rooms of another equal rank are siblings and may not.
RANKS = {
    "structures": 0,
    "ops": 0,
    "utils": 0,
    "backbones": 1,
    "modeling": 2,
    "data": 2,
    "retrieval": 2,
    "selftrain": 2,
    "evaluation": 3,
    "config": 4,
    "engine": 5,
    "web": 6,
    "cli": 7,
    "__init__": 6,
}


def find_violations(package: Path) -> list[str]:
    """Every import in a package folder that breaks a rule, as "file:line: what"."""
    violations = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        violations += [
            f"{name}:{line}: {what}" for line, what in bad_imports(tree, name, package.name)
        ]
    return violations


def bad_imports(tree: ast.AST, name: Path, package: str) -> Iterator[tuple[int, str]]:
    room = name.parts[0].removesuffix(".py")
    if room not in RANKS:
        yield 1, f"room {room!r} has no rank: give it one in tests/test_layering.py"
        return
    for line, target in imported_rooms(tree, name, package):
        other = target if target in RANKS else "__init__"
        if other == room or RANKS[other] < RANKS[room] or RANKS[other] == RANKS[room] == 0:
            continue
        direction = "sideways" if RANKS[other] == RANKS[room] else "upward"
        yield line, f"{direction} import of {target} from {room}"


def imported_rooms(tree: ast.AST, name: Path, package: str) -> Iterator[tuple[int, str]]:
    """Line and first part below the package of each import from the package itself."""
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = (package, *name.parts[:-1])
                base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [base])])
            modules = [f"{base}.{alias.name}" for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == package:
                yield node.lineno, parts[1] if len(parts) > 1 else "__init__"


def test_the_package_keeps_the_rules() -> None:
    violations = find_violations(PACKAGE)
    assert not violations, "\n".join(violations)


BROKEN = {
    "ops/a.py": ("from ..backbones import x", "upward import of backbones"),
    "ops/b.py": ("from spil_d2.engine.searcher import x", "upward import of engine"),
    "modeling/a.py": ("from .. import data", "sideways import of data"),
    "retrieval/engines/a.py": ("from ...selftrain.seeds import x", "sideways import of selftrain"),
    "data/a.py": ("import spil_d2.evaluation.ranking", "upward import of evaluation"),
    "evaluation/a.py": ("def f():\n    from ..config import x", "upward import of config"),
    "selftrain/a.py": ("from .. import __version__", "upward import of __version__"),
    "misc/a.py": ("", "room 'misc' has no rank"),
}

ALLOWED = {
    "__init__.py": "from .engine.searcher import Searcher\nfrom .config import add_config",
    "ops/a.py": "from ..structures import Query\nfrom .boxes import x\nimport numpy",
    "retrieval/engines/a.py": "from ..proposals import x\nfrom ...utils.artifacts import y",
    "evaluation/a.py": "from ..retrieval.index import x\n",
    "engine/a.py": "from .. import config, modeling\nfrom spil_d2.evaluation import x",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_found(tmp_path: Path, name: str) -> None:
    source, expected = BROKEN[name]
    write(tmp_path / "spil_d2" / name, source)
    violations = find_violations(tmp_path / "spil_d2")
    assert len(violations) == 1
    assert violations[0].startswith(f"{name}:") and expected in violations[0]


def test_what_is_allowed_is_not_found(tmp_path: Path) -> None:
    for name, source in ALLOWED.items():
        write(tmp_path / "spil_d2" / name, source)
    assert find_violations(tmp_path / "spil_d2") == []


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
