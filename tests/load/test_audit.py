"""`scripts/audit.py`: what it believes, and its exit codes."""

from __future__ import annotations

from types import ModuleType

import pytest

from ..programs import ROOT, load_program

GOOD = {"name": "numpy", "version": "2.4.6", "vulns": []}
OWN = {"name": "detectron2", "skip_reason": "not found on PyPI"}
UNKNOWN = {"name": "pillow", "skip_reason": "not found on PyPI"}
BAD = {
    "name": "pillow",
    "version": "9.0.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["9.0.1"]}],
}


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    program = load_program(ROOT / "scripts" / "audit.py")
    monkeypatch.setattr(program, "_install", lambda: True)
    return program


def answer(audit: ModuleType, monkeypatch: pytest.MonkeyPatch, control: list, whole: list) -> int:
    """The exit code where services answer so."""
    monkeypatch.setattr(audit, "ask", lambda _, *what: whole if what[0] == "--path" else control)
    return audit.main()


@pytest.mark.parametrize(
    ("whole", "code", "told"),
    [
        ([GOOD, OWN], 0, "no vulnerability is known in 2 packages"),
        ([GOOD, BAD], 1, "pillow 9.0.0: PYSEC-1 CVE-1, mended in 9.0.1"),
        ([BAD, UNKNOWN], 1, "pillow was not looked up"),
        ([GOOD, UNKNOWN], 3, "NOT DONE: 1 of 2 packages were not looked up"),
        ([], 3, "NOT DONE"),
        (None, 3, "NOT DONE: pypi has failed"),
    ],
)
def test_exit_codes(audit, monkeypatch, capsys, whole, code, told) -> None:
    assert answer(audit, monkeypatch, [BAD], whole) == code
    assert told in "".join(capsys.readouterr())


@pytest.mark.parametrize("control", [None, [], [UNKNOWN], [{**BAD, "vulns": []}]])
def test_a_service_that_finds_nothing_is_not_believed(audit, monkeypatch, capsys, control) -> None:
    assert answer(audit, monkeypatch, control, [GOOD]) == 3
    assert "NOT DONE: neither of pypi, osv" in capsys.readouterr().err


def test_without_a_package_index(audit, monkeypatch, capsys) -> None:
    monkeypatch.setattr(audit, "_install", lambda: False)
    assert audit.main() == 3
    assert "could not be installed" in capsys.readouterr().err
