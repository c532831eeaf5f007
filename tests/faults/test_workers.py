"""Processes that load data or index: one that dies, and those of a run that was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spil_d2.data.build import PairDataset, build_pair_loader
from spil_d2.engine.parallel_index import _end_with_parent
from spil_d2.engine.training_run import noted_failures
from spil_d2.structures import Pair


def _draw(query_id: int, rng: np.random.Generator) -> Pair:
    return Pair(query_id, int(rng.integers(100)), ())


def _map(pair: Pair, rng: np.random.Generator) -> dict:
    return {"target": pair.target}


def test_a_loader_process_that_dies_is_named_and_the_stream_goes_on() -> None:
    dataset = PairDataset((1, 2, 3), _draw, _map, seed=0)
    loader = iter(build_pair_loader(dataset, 0, batch_size=2, num_workers=1))
    batches = [next(loader)]
    keys = SimpleNamespace(DATALOADER=SimpleNamespace(NUM_WORKERS=1))
    trainer = SimpleNamespace(iter=1, cfg=keys)
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        with noted_failures(trainer, list):
            while True:
                batches.append(next(loader))
    (note,) = caught.value.__notes__
    assert "DATALOADER.NUM_WORKERS is 1, fewer need less; --resume goes on" in note
    resumed = iter(build_pair_loader(dataset, len(batches), batch_size=2, num_workers=0))
    undisturbed = iter(build_pair_loader(dataset, 0, batch_size=2, num_workers=0))
    expected = [next(undisturbed) for _ in range(len(batches) + 2)]
    assert [*batches, next(resumed), next(resumed)] == expected


def _work_for_ever(mark: str) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    Path(mark).write_text(str(os.getpid()))
    time.sleep(60)


def test_the_processes_of_a_killed_index_run_end(tmp_path: Path) -> None:
    mark = tmp_path / "worker"
    run = os.fork()
    if run == 0:
        context = multiprocessing.get_context("fork")
        context.Process(target=_work_for_ever, args=(str(mark),)).start()
        time.sleep(60)
    deadline = time.monotonic() + 30
    while not (mark.is_file() and mark.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(run, signal.SIGKILL)
    os.waitpid(run, 0)
    worker = Path(f"/proc/{mark.read_text()}/stat")
    while worker.exists() and worker.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)
