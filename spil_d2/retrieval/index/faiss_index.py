"""The FAISS backend: inverted lists on one machine.

The lists hold the half-precision vectors themselves and are the only copy of them: similarities
are then exact for every region that is looked at, there is nothing to re-rank, and vectors are read
back without loss. 8-bit codes would be scanned a sixth faster, but need the vectors beside them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from ...utils.artifacts import write_json_atomic
from ...utils.reading import UnreadableFileError, read_json, reason_of
from .segmented import SegmentedIndex
from .segments import VectorSource
from .table import RegionTable
from .vectors import ApproximateVectors, Vectors

VECTORS_NAME = "vectors.faiss"
_SUM_NAME = "vectors.json"
_HASHED_AT_ONCE = 1 << 20
# Below, one list: comparing with all takes a few milliseconds and is exact.
_MIN_REGIONS_FOR_LISTS = 20_000
_TRAINING_VECTORS_PER_LIST = 64
_MIN_PROBED = 32


class FaissIndex(SegmentedIndex):
    """Vectors in memory-mapped inverted lists (IVF, half precision), one FAISS index a segment."""

    backend: ClassVar[str] = "faiss"

    def __init__(self, *, is_centred: bool = False, probed: float = 0.12) -> None:
        """
        Args:
            is_centred: see `RegionIndex`.
            probed: the part of the lists that a query looks into, in (0, 1], though 32 lists at
                least; 1 is exact.

        Raises:
            ImportError: FAISS is not installed.
        """
        if not 0 < probed <= 1:
            raise ValueError(f"probed is {probed}, not in (0, 1]")
        _import_faiss()
        super().__init__(is_centred=is_centred, probed=probed)

    def _write_vectors(self, path: Path, name: str, source: VectorSource) -> None:
        faiss = _import_faiss()
        count, dimension = source.shape
        lists = int(2 * count**0.5) if count >= _MIN_REGIONS_FOR_LISTS else 1
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dimension),
            dimension,
            lists,
            faiss.ScalarQuantizer.QT_fp16,
            faiss.METRIC_INNER_PRODUCT,
            False,  # codes of the vectors, not of their differences from the centre of the list
        )
        index.cp.spherical = True
        index.cp.min_points_per_centroid = 1
        index.cp.max_points_per_centroid = _TRAINING_VECTORS_PER_LIST
        index.train(source.sample(_TRAINING_VECTORS_PER_LIST * lists))
        for block in source:
            index.add(block.astype(np.float32))
        index.make_direct_map(True)
        faiss.write_index(index, str(path / VECTORS_NAME))
        write_json_atomic(path / _SUM_NAME, _sum_of(path / VECTORS_NAME, count, dimension))

    def _open_vectors(self, path: Path, name: str) -> Vectors:
        faiss = _import_faiss()
        file = path / VECTORS_NAME
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing")
        _check_sum(file)
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
        except (RuntimeError, MemoryError) as error:
            raise UnreadableFileError(file, f"is damaged: {reason_of(error)}") from error
        return _ListVectors(index, self._head.settings["probed"])


class _ListVectors(ApproximateVectors):
    def __init__(self, index: Any, probed: float) -> None:
        self._index = index
        self._num_probed = min(index.nlist, max(_MIN_PROBED, round(probed * index.nlist)))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._index.reconstruct_batch(np.arange(start, stop)).astype(np.float16)

    def nearest(
        self,
        queries: np.ndarray,
        count: int,
        table: RegionTable,
        eligible: np.ndarray | None,
        is_wide: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        faiss = _import_faiss()
        parameters = faiss.SearchParametersIVF(
            nprobe=self._index.nlist if is_wide else self._num_probed
        )
        if eligible is not None:
            bits = np.packbits(np.repeat(eligible, table.counts), bitorder="little")
            # Both the selector and its bits must outlive the search.
            selector = faiss.IDSelectorBitmap(bits)
            parameters.sel = selector
        similarities, rows = self._index.search(queries, count, params=parameters)
        if rows.size and rows.max() >= len(self):
            raise ValueError(f"region {rows.max()} of {len(self)} was found")
        return rows, similarities


def _sum_of(file: Path, count: int, dimension: int) -> dict[str, Any]:
    """Size of a file of FAISS, and a hash of all before the `count` vectors with their numbers."""
    size = file.stat().st_size
    head = max(size - count * (2 * dimension + 8), 0)
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        for start in range(0, head, _HASHED_AT_ONCE):
            digest.update(opened.read(min(_HASHED_AT_ONCE, head - start)))
    return {"size": size, "count": count, "dimension": dimension, "sha256": digest.hexdigest()}


def _check_sum(file: Path) -> None:
    """Refuse a damaged file: FAISS takes its structure on trust, and a wrong one ends the process.

    Files of before there were sums have none, and are taken as they are.
    """
    path = file.with_name(_SUM_NAME)
    if not path.is_file():
        return
    known = read_json(path)
    size = file.stat().st_size
    numbers = (
        [known.get(one) for one in ("size", "count", "dimension")]
        if isinstance(known, dict)
        else []
    )
    if numbers[:1] != [size] or not all(type(one) is int and 0 <= one <= size for one in numbers):
        raise UnreadableFileError(file, f"is damaged: it is not as {path.name} says")
    seen = _sum_of(file, known["count"], known["dimension"])
    if seen != known:
        raise UnreadableFileError(file, f"is damaged: it is not as {path.name} says")


def _import_faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "the index backend 'faiss' needs FAISS: pip install faiss-cpu, or use 'exact'"
        ) from error
    return faiss
