"""Indexes of regions behind one contract: exact, FAISS, Milvus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import RegionIndex
from .exact import ExactIndex
from .faiss_index import FaissIndex
from .milvus_index import MilvusIndex
from .segments import Head, damaged

INDEX_BACKENDS: dict[str, type[RegionIndex]] = {
    one.backend: one for one in (ExactIndex, FaissIndex, MilvusIndex)
}


def create_region_index(
    backend: str, directory: str | Path | None = None, *, is_centred: bool = False, **options: Any
) -> RegionIndex:
    """A new, empty index.

    Args:
        backend: "exact", "faiss" or "milvus".
        directory: where it will persist; None for one in memory, which `save` can write.
        is_centred: see `RegionIndex`.
        options: of the backend's class.

    Raises:
        FileExistsError: the directory holds an index.
        ImportError: the backend's library is not installed.
        ValueError: there is no such backend.
    """
    return _find(backend).create(directory, is_centred=is_centred, **options)


def open_region_index(directory: str | Path, **options: Any) -> RegionIndex:
    """The index in a directory, of whichever backend wrote it.

    Args:
        directory: that an index persisted in, or was saved to.
        options: that replace those the index was created with, as `probed`, or were not kept, as
            the `token` of a Milvus server.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: naming the directory, where its files are damaged.
    """
    backend = Head.read(Path(directory)).backend
    try:
        kind = _find(backend)
    except ValueError as error:
        raise damaged(Path(directory), error) from error
    return kind.open(directory, **options)


def _find(backend: str) -> type[RegionIndex]:
    if backend not in INDEX_BACKENDS:
        raise ValueError(f"index backend {backend!r} is none of {sorted(INDEX_BACKENDS)}")
    return INDEX_BACKENDS[backend]
