"""The exact backend: each query is compared with each region."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from .segmented import SegmentedIndex
from .segments import VectorSource
from .vectors import ArrayVectors, Vectors

EMBEDDINGS_NAME = "embeddings.npy"


class ExactIndex(SegmentedIndex):
    """Vectors in memory-mapped files; right for small galleries and as the measure of others."""

    backend: ClassVar[str] = "exact"

    def __init__(self, *, is_centred: bool = False) -> None:
        super().__init__(is_centred=is_centred)

    def _write_vectors(self, path: Path, name: str, source: VectorSource) -> None:
        array = np.lib.format.open_memmap(
            path / EMBEDDINGS_NAME, "w+", dtype=np.float16, shape=source.shape
        )
        start = 0
        for block in source:
            array[start : start + len(block)] = block
            start += len(block)
        array.flush()

    def _open_vectors(self, path: Path, name: str) -> Vectors:
        file = path / EMBEDDINGS_NAME
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if array.ndim != 2 or array.dtype != np.float16:
            raise ValueError(f"{file} holds {array.dtype} {array.shape}, not float16 (R, D)")
        return ArrayVectors(array)
