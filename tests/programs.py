"""Programs of the project, run inside the process of the tests."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
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
