"""The exact backend: each query is compared with each region."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from ...utils.reading import map_array
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
        header = {"descr": "<f2", "fortran_order": False, "shape": source.shape}
        # Not through a memory map: on a full disk that ends the process, and what was written
        # counts as its memory.
        with open(path / EMBEDDINGS_NAME, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in source:
                file.write(np.ascontiguousarray(block, "<f2").data)

    def _open_vectors(self, path: Path, name: str) -> Vectors:
        file = path / EMBEDDINGS_NAME
        return ArrayVectors(map_array(file, "f2", ndim=2))
