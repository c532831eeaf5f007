"""Search-engine work on a gallery by several processes of one machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from ..retrieval import Regions, SearchEngine, build_search_engine
from ..retrieval.search import read_rgb
from ..utils.allocator import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

_engine: SearchEngine | None = None


class WorkerDiedError(RuntimeError):
    """One of the processes has ended without an answer."""


def num_index_workers(cfg) -> int:
    """SEARCH.NUM_WORKERS; -1 is one for each core on a CPU and none beside an accelerator."""
    if cfg.SEARCH.NUM_WORKERS >= 0:
        return cfg.SEARCH.NUM_WORKERS
    return len(os.sched_getaffinity(0)) if cfg.MODEL.DEVICE == "cpu" else 0


def map_regions(cfg, batches: Sequence[Sequence[str]], num_workers: int) -> Iterator[list[Regions]]:
    """Regions of batches of files, in order, with one engine of one thread in each process.

    Raises:
        WorkerDiedError: when a worker has died.
    """
    return map_with_engine(cfg, _regions, batches, num_workers)


def map_with_engine(
    cfg,
    function: Callable[[SearchEngine, Item], Result],
    items: Iterable[Item],
    num_workers: int,
) -> Iterator[Result]:
    """`function(engine, item)` in other processes, one engine of one thread in each.

    Args:
        cfg: of the engine.
        function: of a module, not nested: it is sent by its name.
        items: drawn as they are needed, a few ahead of the results.
        num_workers: processes, at least 1.

    Yields:
        The results in the order of `items`.

    Raises:
        WorkerDiedError: when a process has died; what `function` wrote to disk is there.
    """
    context = multiprocessing.get_context("spawn")
    waiting: deque[Future] = deque()
    with ProcessPoolExecutor(num_workers, context, _start, (cfg,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(_call, function, item))
                if len(waiting) > 2 * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerDiedError(
                f"one of the {num_workers} indexing processes died, perhaps for want of memory: "
                "run again with fewer of them (SEARCH.NUM_WORKERS, --workers)"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _start(cfg) -> None:
    global _engine
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(1)
    _engine = build_search_engine(cfg)


def _end_with_parent() -> None:
    """A process of the pool waits for work for ever, also where its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a process of a pool"
    parent.join()
    os._exit(1)


def _call(function: Callable[[SearchEngine, Any], Any], item: Any) -> Any:
    assert _engine is not None, "_start runs first in each process"
    return function(_engine, item)


def _regions(engine: SearchEngine, files: Sequence[str]) -> list[Regions]:
    return engine.regions([read_rgb(name) for name in files])
