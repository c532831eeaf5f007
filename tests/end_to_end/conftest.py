"""A gallery and a schedule on which the whole main job takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from spil_d2.data.datasets.instance_search import register_instance_search
from spil_d2.data.datasets.synthetic import build_demo_gallery

from ..programs import (
    ROOT,
    load_tool,
    one_thread,
    restored_loggers,
    train_net_here,
    trainer_of,
)

INSTANT = ROOT / "configs" / "quick_schedules" / "spil_tiny_instant_test.yaml"


# Moving boxes to borders takes most of a small run's time, and has no part in most tests.
UNREFINED = ("SPIL.REFINE_BOXES", "none", "TEST.REFINE_BOXES", "none")


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield


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
    return trainer_of(INSTANT)


@pytest.fixture(scope="session")
def ablation(datasets_root, tmp_path_factory) -> Path:
    """Output folder of `tools/ablation.py` with three rows, which no test may change."""
    output = tmp_path_factory.mktemp("ablation")
    tool = load_tool("ablation")
    rows = ["--rows", "SP,SP+CA,FSOD", "--config-file", str(INSTANT)]
    with pytest.MonkeyPatch.context() as patch, restored_loggers():
        patch.setattr(tool, "subprocess", SimpleNamespace(run=train_net_here))
        tool.main([*rows, "OUTPUT_DIR", str(output), "SPIL.STAGE_TOP_K", "6", *UNREFINED])
    return output


@pytest.fixture(scope="session")
def undisturbed(train_net, tmp_path_factory) -> tuple[Path, dict]:
    """Output folder and summaries of one whole run, which no test may change."""
    output = tmp_path_factory.mktemp("undisturbed")
    return output, train_net(output, "DATASETS.TEST", "('ins_mini','ins_mini_two')")
