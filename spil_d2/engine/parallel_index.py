"""Search-engine regions of a gallery by several processes of one machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from ..retrieval import Regions, SearchEngine, build_search_engine
from ..retrieval.search import read_rgb
from ..utils.allocator import keep_freed_memory

_engine: SearchEngine | None = None


def num_index_workers(cfg) -> int:
    """SEARCH.NUM_WORKERS; -1 is one for each core on a CPU and none beside an accelerator."""
    if cfg.SEARCH.NUM_WORKERS >= 0:
        return cfg.SEARCH.NUM_WORKERS
    return len(os.sched_getaffinity(0)) if cfg.MODEL.DEVICE == "cpu" else 0


def map_regions(cfg, batches: Sequence[Sequence[str]], num_workers: int) -> Iterator[list[Regions]]:
    """Regions of batches of files, in order, with one engine of one thread in each process.

    Raises:
        RuntimeError: when a worker has died.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _start, (cfg,)) as pool:
        try:
            yield from pool.map(_regions, batches)
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"one of the {num_workers} indexing processes died, perhaps for want of memory: "
                "lower SEARCH.NUM_WORKERS and run again"
            ) from error


def _start(cfg) -> None:
    global _engine
    keep_freed_memory()
    torch.set_num_threads(1)
    _engine = build_search_engine(cfg)


def _regions(files: Sequence[str]) -> list[Regions]:
    assert _engine is not None
    return _engine.regions([read_rgb(name) for name in files])
