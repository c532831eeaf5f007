"""Disks that are full or read-only: a clear error, nothing half-written, and a way on."""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from spil_d2.engine.checkpoint import AtomicPathManager
from spil_d2.engine.folder_index import IndexSettings, index_folder
from spil_d2.utils.disk_errors import DiskError

from ..programs import load_tool
from .disks import mounted
from .subjects import CONFIGS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A megabyte."""
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(mounted(tmp_path / "disk", 1))
        except PermissionError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def read_only_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("read_only") / "disk"
        try:
            yield stack.enter_context(mounted(folder, 1, read_only=True))
        except PermissionError as error:
            pytest.skip(str(error))


def checkpointer_of(folder: Path, values: int) -> DetectionCheckpointer:
    checkpointer = DetectionCheckpointer(nn.Linear(values, 1), str(folder))
    checkpointer.path_manager = AtomicPathManager()
    return checkpointer


# What torch raises depends on where in its file the disk becomes full.
@pytest.mark.parametrize("values", [200_000, 300_000])
def test_a_checkpoint_on_a_full_disk(small_disk: Path, values: int) -> None:
    checkpointer_of(small_disk, 10).save("model_0000001", iteration=1)
    large = checkpointer_of(small_disk, values)
    (small_disk / "filler").write_bytes(bytes(400_000))
    with pytest.raises(DiskError, match="model_0000003.pth cannot be written .No space") as caught:
        large.save("model_0000003", iteration=3)
    assert caught.value.errno == errno.ENOSPC
    assert "Make room and run the same command again, a program of tools/ with --resume" in str(
        caught.value
    )
    assert {one.name for one in small_disk.iterdir()} == {
        "filler", "last_checkpoint", "model_0000001.pth",
    }  # fmt: skip
    assert (small_disk / "last_checkpoint").read_text() == "model_0000001.pth"
    (small_disk / "filler").unlink()
    if values < 250_000:
        large.save("model_0000003", iteration=3)
        assert torch.load(small_disk / "model_0000003.pth")["iteration"] == 3


def test_a_limit_of_file_sizes_is_named(tmp_path: Path) -> None:
    """Without any rights: the second way to a write that fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(DiskError, match=r"model_0000001.pth .*File too large.*ulimit -f"):
            checkpointer_of(tmp_path, 100_000).save("model_0000001")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("tool", "config"), [("train_net", "spil"), ("cycle_self_train", "cst")])
def test_a_read_only_output_directory(read_only_disk: Path, tool: str, config: str) -> None:
    program = load_tool(tool)
    given = ["--config-file", str(CONFIGS / f"{config}_tiny_instant_test.yaml")]
    given += ["OUTPUT_DIR", str(read_only_disk / "output")]
    with pytest.raises(DiskError, match="Read-only file system.*use another directory") as caught:
        program.main(program.parser().parse_args(given))
    assert str(read_only_disk / "output") in str(caught.value)


def test_an_index_on_a_read_only_disk(read_only_disk: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="Read-only file system.*use another directory"):
        index_folder(tmp_path, read_only_disk / "index", IndexSettings(num_workers=0))
