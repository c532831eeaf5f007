"""Programs of the project, run inside the process of the tests or in forks of another one."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def restored_loggers() -> Iterator[None]:
    """Programs set up loggers for the whole process; other tests need them as they were."""
    loggers = [logging.getLogger(name) for name in ("spil_d2", "detectron2", "fvcore")]
    before = [(one.level, one.propagate, one.handlers[:]) for one in loggers]
    try:
        yield
    finally:
        for one, (level, propagate, handlers) in zip(loggers, before, strict=True):
            one.setLevel(level)
            one.propagate, one.handlers = propagate, handlers


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order: killed and undisturbed runs are compared bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_program(path: Path) -> ModuleType:
    """A program as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_tool(name: str) -> ModuleType:
    """A program of `tools/` as a module."""
    return load_program(ROOT / "tools" / f"{name}.py")


def trainer_of(config_file: Path) -> Callable[..., dict]:
    """`tools/train_net.py` on a configuration: (output folder, *arguments) -> its summaries."""
    tool = load_tool("train_net")

    def run(output: Path, *arguments: str) -> dict:
        given = ["--config-file", str(config_file), *arguments, "OUTPUT_DIR", str(output)]
        with restored_loggers():
            return tool.main(tool.parser().parse_args(given))

    return run


def train_net_here(command: Sequence[str], check: bool) -> dict:
    """In place of `subprocess.run` in a tool that runs tools/train_net.py: in this process.

    Args:
        command: interpreter, program, its arguments.
        check: that a failure is an error, as it is here.

    Returns:
        The summaries.
    """
    assert check and Path(command[1]) == ROOT / "tools" / "train_net.py", command
    tool = load_tool("train_net")
    with restored_loggers():
        return tool.main(tool.parser().parse_args(command[2:]))


# Imports once; a fork for each line of its input runs a program. Starting Python and torch anew
# each time would be most of a test.
_FORKER = """
import os, runpy, sys
import torch
import spil_d2.engine.cycle, spil_d2.engine.pipeline
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Nobody reads the pipe while a test waits for a file: a full one would stop the program.
        os.dup2(2, 1)
        sys.argv = line.rstrip("\\n").split("\\t")
        runpy.run_path(sys.argv[0], run_name="__main__")
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class ForkedPrograms:
    """Runs programs one after the other, each in a fork of a process that has imported them."""

    def __init__(self, datasets_root: Path, log: Path, hash_seed: int):
        """
        Args:
            datasets_root: DETECTRON2_DATASETS of the programs.
            log: what they print.
            hash_seed: PYTHONHASHSEED.
        """
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(datasets_root),
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": str(hash_seed),
        }
        self._log = log
        with open(log, "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _FORKER],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> ForkedPrograms:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, words: Sequence[str]) -> int:
        """Start a program (its path below the root, its arguments); returns its process."""
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def status(self) -> int:
        """Wait for the program; returns what `os.waitpid` says: 0, or the signal."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process that forks has ended: {self._log.read_text()[-3000:]}"
        return int(line)
