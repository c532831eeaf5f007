"""Two runs in one directory: the second refuses and names the first."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spil_d2.engine.folder_index import IndexSettings, index_folder
from spil_d2.utils.artifacts import LOCK_NAME, lock_output_dir

from ..programs import load_tool
from .subjects import CONFIGS


def _tool(name: str, config: str) -> Callable[[Path], object]:
    def start(output: Path) -> object:
        program = load_tool(name)
        given = ["--config-file", str(CONFIGS / f"{config}_tiny_instant_test.yaml")]
        return program.main(program.parser().parse_args([*given, "OUTPUT_DIR", str(output)]))

    return start


def _index(output: Path) -> object:
    photos = output.with_name("photos")
    photos.mkdir()
    return index_folder(photos, output, IndexSettings(num_workers=0), progress=False)


@pytest.mark.parametrize(
    "start",
    [_tool("train_net", "spil"), _tool("cycle_self_train", "cst"), _index],
    ids=["trainer", "cycle", "indexer"],
)
def test_the_second_run_names_the_first(start: Callable[[Path], object], tmp_path: Path) -> None:
    output = tmp_path / "output"
    with lock_output_dir(output):
        words = (
            rf"output is in use by another run \(pid {os.getpid()} on {socket.gethostname()}, "
            r"started 20\d\d-.*\); wait for it, stop it, or use another directory"
        )
        with pytest.raises(RuntimeError, match=words):
            start(output)
    assert [one.name for one in output.iterdir()] == [LOCK_NAME]


def test_the_lock_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("pid 4000000 on elsewhere, started 2020-01-01\n")
    with lock_output_dir(tmp_path):
        pass


def test_a_killed_run_whose_workers_still_live_does_not_block(tmp_path: Path) -> None:
    """A loader's processes notice only after seconds that their parent is dead."""
    read, write = os.pipe()
    run = os.fork()
    if run == 0:
        with lock_output_dir(tmp_path):
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            os.write(write, str(worker).encode())
            time.sleep(60)
    worker = int(os.read(read, 20))
    try:
        with pytest.raises(RuntimeError, match=f"pid {run} on"), lock_output_dir(tmp_path):
            pass
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
        with lock_output_dir(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(read)
        os.close(write)
