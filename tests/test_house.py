"""The rules of the house that hold for all Python of the project: sizes, documentation, types.

What the layers of the package may import is in test_layering.py.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("spil_d2", "tools", "datasets", "demo", "scripts", "tests")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[Path], Iterator[str]]


def python_files(*folders: str) -> list[Path]:
    """The project's own programs and modules."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def too_long(path: Path) -> Iterator[str]:
    """ "line: what" of a file or function that has too many lines.

    The keys of the configuration and the arguments from it are lists, as long as they are.
    """
    source = path.read_text(encoding="utf-8")
    lines = len(source.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"1: {lines} lines, {MAX_FILE_LINES} allowed"
    is_config = path.parent.name == "config"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS) and not is_config and node.name != "from_config":
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {lines} lines, {MAX_FUNCTION_LINES} allowed"


def public_definitions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | Function, str]]:
    """Classes, functions and methods that others may use, with their names."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_"):
            yield node, node.name
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, FUNCTIONS) and not method.name.startswith("_"):
                        yield method, f"{node.name}.{method.name}"


def undocumented(path: Path) -> Iterator[str]:
    """ "line: what" of a public module, class, function or method without documentation.

    A method of a derived class may override one whose base class says what it does, and
    `from_config` gives the arguments that `__init__` documents.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from unexplained(path)
    derived = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases
    }
    for node, name in public_definitions(tree):
        if ast.get_docstring(node) or _is_overload(node) or node.name == "from_config":
            continue
        if isinstance(node, FUNCTIONS) and "." in name and name.split(".")[0] in derived:
            continue
        yield f"{node.lineno}: {name}"


def _is_overload(node: ast.ClassDef | Function) -> bool:
    """Whether it only says types again, or sets what a documented property gives."""
    return any(
        ast.unparse(one) == "overload" or ast.unparse(one).endswith(".setter")
        for one in node.decorator_list
    )


def untyped(path: Path) -> Iterator[str]:
    """ "line: what" of a public function with an argument that has no type.

    `cfg` is Detectron2's configuration, with which `from_config` takes what `__init__` types.
    """
    for node, name in public_definitions(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, FUNCTIONS) or node.name == "from_config":
            continue
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        missing = [
            one.arg
            for one in every
            if one.annotation is None and one.arg not in ("self", "cls", "cfg")
        ]
        if missing:
            yield f"{node.lineno}: {name} does not say the type of {', '.join(missing)}"


def prints(path: Path) -> Iterator[str]:
    """ "line: print" of each call of print."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
            yield f"{node.lineno}: print"


def imports_at_start(path: Path, package: Path) -> Iterator[str]:
    """Modules of a package that importing one of its modules imports, by their dotted names.

    What is imported within functions or for type checkers alone makes no circle.
    """
    here = module_name(path, package).split(".")
    if path.name == "__init__.py":
        here = [*here, "__init__"]
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level]] if node.level else []
            base += [node.module] if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == package.name:
                # A name of a module, or something within it.
                yield next(
                    (one for one in (name, ".".join(parts[:-1])) if _file_of(one, package)), name
                )


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _statements(node.body)
        elif isinstance(node, ast.ClassDef):
            yield from _statements(node.body)
        else:
            yield node


def module_name(path: Path, package: Path) -> str:
    """ "spil_d2.ops.boxes" of its file; of a folder that of its __init__.py."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _file_of(name: str, package: Path) -> Path | None:
    place = package.parent.joinpath(*name.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


def import_circles(package: Path) -> list[list[str]]:
    """Modules of a package that import each other in a circle, each circle once.

    A module that takes a name from the package that it lies in is no circle by itself: the names
    that it takes are there by then. A circle of modules is.
    """
    graph = {
        module_name(path, package): {
            name
            for name in imports_at_start(path, package)
            if not f"{module_name(path, package)}.".startswith(f"{name}.")
        }
        for path in sorted(package.rglob("*.py"))
    }
    circles: dict[frozenset[str], list[str]] = {}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            circle = trail[trail.index(name) :]
            circles.setdefault(frozenset(circle), circle)
        elif name in graph and name not in done:
            for other in sorted(graph[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return list(circles.values())


def unexplained(path: Path) -> Iterator[str]:
    """ "1: the module" for a file without documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not ast.get_docstring(tree) and tree.body:
        yield "1: the module"


PRODUCT = tuple(name for name in FOLDERS if name != "tests")
RULES: dict[Rule, tuple[str, ...]] = {
    too_long: FOLDERS,
    undocumented: PRODUCT,
    untyped: PRODUCT,
    prints: ("spil_d2",),
    unexplained: ("tests",),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_all_files_keep_the_rule(rule: Rule) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{text}"
        for path in python_files(*RULES[rule])
        for text in rule(path)
    ]
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_circles(ROOT / "spil_d2") == []


BAD = {
    too_long: (
        "def long():\n" + "    x = 1\n" * 60 + "x = 1\n" * 340,
        ["1: 401", "1: long has 61"],
    ),
    undocumented: (
        "def f():\n    pass\nclass A:\n    def g(self):\n        pass\n"
        "    def _h(self):\n        pass",
        ["1: the module", "1: f", "3: A", "4: A.g"],
    ),
    untyped: (
        "def f(cfg, a, *b, c: int, **d):\n    pass\nclass A:\n    def g(self, x):\n        pass",
        ["1: f does not say the type of a, b, d", "4: A.g does not say the type of x"],
    ),
    prints: ("print('x')\nlogger.print('x')", ["1: print"]),
    unexplained: ("x = 1", ["1: the module"]),
}
GOOD = {
    too_long: "x = 1\n" * 400,
    undocumented: '"""A."""\nclass A(B):\n    """B."""\n    def forward(self):\n        pass\n'
    "    @x.setter\n    def x(self):\n        pass\ndef _f():\n    pass",
    untyped: "def f(cfg, a: int, *b: int):\n    pass\ndef _g(x):\n    pass",
    prints: "def f():\n    logger.info('x')",
    unexplained: '"""A."""\nx = 1',
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_broken_rule_is_found_and_a_kept_one_is_not(rule: Rule, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    source, expected = BAD[rule]
    path.write_text(source)
    found = list(rule(path))
    assert len(found) == len(expected)
    assert all(one.startswith(text) for one, text in zip(found, expected, strict=True)), found
    path.write_text(GOOD[rule])
    assert not list(rule(path))


def test_circles_are_found(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from .a import x",
        "a.py": "from .b import x\ndef f():\n    from .d import x",
        "b/__init__.py": "from . import c",
        "b/c.py": "from ..d import x\nfrom . import e\nimport numpy",
        "b/e.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..a import x",
        "d.py": "import house.a",
    }
    for name, source in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (circle,) = import_circles(tmp_path / "house")
    assert sorted(circle) == ["house.a", "house.b", "house.b.c", "house.d"]
