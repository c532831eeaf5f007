"""A small run over every format, and the fuzzer itself; `python -m tests.fuzz` is the whole one."""

from __future__ import annotations

import logging
import os
import signal
import time
import warnings
from pathlib import Path
from random import Random

import pytest

from spil_d2.data.datasets.fields import DatasetError

from .base import Format
from .formats import FORMATS
from .mutations import change_bytes, change_lines, change_tree
from .runner import Case, Result, run_format
from .verdict import Hang, complaint

MUTANTS = 60


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    """Loaders warn of what they leave out; what a file runs, it runs in a folder of the test."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGVTALRM)
    signal.signal(signal.SIGVTALRM, _raise_hang)
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
    signal.signal(signal.SIGVTALRM, before)


def _raise_hang(*_: object) -> None:
    raise Hang


@pytest.mark.parametrize("name", list(FORMATS))
def test_bad_input_gives_a_result_or_an_error_of_ours(tmp_path, name: str) -> None:
    case = Case(FORMATS[name], tmp_path / "case", seed=0)
    for index in range(MUTANTS):
        reason, _, error = case.run(index)
        told = f"{reason}: {error!r}; repeat: python -m tests.fuzz {name} --seed 0 --only {index}"
        assert not reason, told


def test_a_mutant_is_a_function_of_its_number(tmp_path) -> None:
    cases = [Case(FORMATS["shots"], tmp_path / one, 3) for one in "ab"]
    for index in range(40):
        assert cases[0].mutate(index) == cases[1].mutate(index)
    assert len({cases[0].mutate(index)[1] for index in range(40)}) > 30


def test_changes_change_and_leave_the_original_alone() -> None:
    tree = {"a": [1, {"b": "x"}], "c": 2.5}
    for seed in range(200):
        rng = Random(seed)
        change_tree(tree, rng)
        assert tree == {"a": [1, {"b": "x"}], "c": 2.5}
        change_lines("a b c\n1 2 3\n", rng)
        change_bytes(b"", rng)
    assert change_bytes(bytes(100), Random(1)) != bytes(100)


def _note(folder: Path) -> None:
    (folder / "a.txt").write_text("valid")


def _failing(load) -> Format:
    def guarded(folder: Path) -> None:
        if (folder / "a.txt").read_bytes() != b"valid":
            load(folder)

    return Format("bad", _note, {"a.txt": None}, guarded)


def _loops(folder: Path) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (lambda folder: {}["x"], "KeyError of a library"),
        (lambda folder: os.kill(os.getpid(), signal.SIGSEGV), "the process ended with -11"),
        (lambda folder: os.mkdir("fuzz-was-here"), "the file ran code"),
        (lambda folder: (_ for _ in ()).throw(ValueError("wrong")), "raised in"),
    ],
)
def test_failures_are_kept_and_told(tmp_path, load, reason: str) -> None:
    result = run_format(_failing(load), 2, 0, tmp_path / "failed")
    assert isinstance(result, Result) and len(result.failures) == 2
    one = result.failures[0]
    assert reason in one.reason
    assert Path(one.file).is_file()
    assert one.command == "python -m tests.fuzz bad --seed 0 --only 0"


def test_a_hang_is_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.fuzz.runner.CPU_SECONDS", 0.1)
    case = Case(_failing(_loops), tmp_path / "case", 0)
    began = time.process_time()
    assert case.run(0)[0] == "hang"
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DatasetError("/x/case/a.json: images[1]: wrong"), "raised in"),
        (KeyError("x"), "KeyError of a library"),
        (Hang(), "hang"),
    ],
)
def test_what_is_no_error_of_ours(error: BaseException, reason: str) -> None:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001  any
        assert reason in complaint(caught, Path("/x/case"), None)
