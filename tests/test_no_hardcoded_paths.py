"""No path of anybody's machine: the roots come from the environment, the command line or cfg."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("spil_d2", "tools", "demo", "datasets", "configs", "scripts")
# A home or data folder, a mount, or the data set root by name.
FORBIDDEN = re.compile(r"^(/home/|/root/|/data/|/mnt/|/work/|/Users/|/tmp/|C:\\|~/|datasets/\w)")


def paths_in_python(source: str) -> list[tuple[int, str]]:
    """Line and value of string literals that are such a path; documentation is no matter."""
    return [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and FORBIDDEN.match(node.value)
    ]


def paths_in_text(source: str) -> list[tuple[int, str]]:
    found = []
    for number, line in enumerate(source.splitlines(), start=1):
        if not line.lstrip().startswith("#"):
            words = re.split(r"[\s\"'=:,()\[\]]+", line)
            found += [(number, word) for word in words if FORBIDDEN.match(word)]
    return found


def test_no_path_of_a_machine() -> None:
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix == ".py":
                hits = paths_in_python(path.read_text(encoding="utf-8"))
            elif path.suffix in (".yaml", ".sh", ".html"):
                hits = paths_in_text(path.read_text(encoding="utf-8"))
            else:
                continue
            found += [f"{path.relative_to(ROOT)}:{line}: {value}" for line, value in hits]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", ["/home/me/coco", "/data/x", "datasets/coco", "~/x"])
def test_such_a_path_is_found(path: str) -> None:
    assert paths_in_python(f"'''About {path}.'''\nroot = {path!r}") == [(2, path)]
    assert paths_in_text(f"A: 1\nROOT: '{path}'\n# ROOT: {path}") == [(2, path)]


def test_the_default_root_is_allowed() -> None:
    assert paths_in_python("root = os.getenv('DETECTRON2_DATASETS', 'datasets')") == []
