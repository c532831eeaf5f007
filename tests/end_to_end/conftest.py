"""A gallery and a schedule on which the whole main job takes seconds."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.engine import default_argument_parser

from spil_d2.data.datasets.instance_search import register_instance_search
from spil_d2.data.datasets.synthetic import build_demo_gallery

ROOT = Path(__file__).parents[2]
INSTANT = ROOT / "configs" / "quick_schedules" / "spil_tiny_instant_test.yaml"


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


def load_tool(name: str) -> ModuleType:
    """A program of `tools/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order: killed and undisturbed runs are compared bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def datasets_root(tmp_path_factory) -> Path:
    """A $DETECTRON2_DATASETS with `ins_mini` and, of other pictures, `ins_mini_two`."""
    root = tmp_path_factory.mktemp("datasets")
    for name, seed, num_instances in (("mini", 0, 3), ("mini_two", 1, 2)):
        folder = root / "ins" / name
        build_demo_gallery(
            folder,
            seed=seed,
            num_instances=num_instances,
            images_per_instance=4,
            num_distractors=2,
        )
        register_instance_search(f"ins_{name}", folder)
    return root


@pytest.fixture(scope="session")
def train_net(datasets_root) -> Callable[..., dict]:
    """`tools/train_net.py` in this process: (output folder, *arguments) -> its summaries."""
    tool = load_tool("train_net")

    def run(output: Path, *arguments: str) -> dict:
        given = ["--config-file", str(INSTANT), *arguments, "OUTPUT_DIR", str(output)]
        with restored_loggers():
            return tool.main(default_argument_parser().parse_args(given))

    return run


@pytest.fixture(scope="session")
def undisturbed(train_net, tmp_path_factory) -> tuple[Path, dict]:
    """Output folder and summaries of one whole run, which no test may change."""
    output = tmp_path_factory.mktemp("undisturbed")
    return output, train_net(output, "DATASETS.TEST", "('ins_mini','ins_mini_two')")
