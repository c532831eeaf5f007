"""Killed before every single file operation: of the steps that make an artefact appear or go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from spil_d2.engine.checkpoint import save_weights
from spil_d2.engine.trainer import _forget_earlier_run
from spil_d2.utils import artifacts

from .artefacts import leftovers
from .forks import OPERATION, Child, Fault


def _publish(folder: Path) -> None:
    def write(place: Path) -> None:
        (place / "a.txt").write_text("a" * 100)
        (place / "sub").mkdir()
        (place / "sub" / "b.txt").write_text("b" * 100)

    artifacts.publish_directory(folder / "00", write, {"fingerprint": "f"})


def _is_whole_or_absent(folder: Path) -> bool:
    target = folder / "00"
    if not target.exists():
        return True
    texts = [(target / name).read_text() for name in ("a.txt", "sub/b.txt")]
    return texts == ["a" * 100, "b" * 100] and artifacts.read_manifest(target) != {}


def _save(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    save_weights(torch.nn.Linear(3, 3), folder / "weights.pth")


def _loads_or_is_absent(folder: Path) -> bool:
    path = folder / "weights.pth"
    return not path.exists() or len(torch.load(path, weights_only=True)) == 2


def _killed_everywhere(
    job: Callable[[Path], None],
    prepare: Callable[[Path], None],
    is_right: Callable[[Path], bool],
    place: Path,
) -> int:
    """Kill `job` before each of its operations in turn; returns how many there were."""
    for number in range(1, 100):
        folder = place / f"{number:02d}" / "output"
        folder.parent.mkdir()
        prepare(folder)
        log = folder.with_name("log")
        ended = Child(partial(job, folder), folder, log, Fault(OPERATION, number)).wait()
        assert is_right(folder), f"after a kill before operation {number}"
        if not ended.was_killed:
            assert ended.code == 0, log.read_text()
            return number - 1
        job(folder)
        assert is_right(folder) and not leftovers(folder), f"{number}: {leftovers(folder)}"
    raise AssertionError("more operations than there can be")


@pytest.mark.parametrize(
    ("job", "is_right", "least"),
    [(_publish, _is_whole_or_absent, 6), (_save, _loads_or_is_absent, 2)],
)
def test_what_is_published_is_whole_or_absent(
    job: Callable[[Path], None], is_right: Callable[[Path], bool], least: int, tmp_path: Path
) -> None:
    assert _killed_everywhere(job, lambda folder: None, is_right, tmp_path) >= least


def test_forgetting_an_earlier_run_leaves_nothing_that_resume_could_mix(tmp_path: Path) -> None:
    """Its weights with other stages, or a stage of which a part is gone."""

    def earlier(folder: Path) -> None:
        for name in ("00", "01"):
            artifacts.publish_directory(folder / "stages" / name, _publish, {"fingerprint": "f"})
        (folder / "last_checkpoint").write_text("model_final.pth")

    def forget(folder: Path) -> None:
        with artifacts.lock_output_dir(folder):
            _forget_earlier_run(type("cfg", (), {"OUTPUT_DIR": str(folder)}))

    def is_right(folder: Path) -> bool:
        stages = sorted((folder / "stages").glob("*"))
        whole = all(artifacts.is_published(one) and _is_whole_or_absent(one) for one in stages)
        return whole and (len(stages) == 2 or not (folder / "last_checkpoint").exists())

    assert _killed_everywhere(forget, earlier, is_right, tmp_path) > 6
