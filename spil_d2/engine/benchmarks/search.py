"""The index backends against one loop over the queries in numpy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...retrieval import RegionIndex, create_region_index, open_region_index
from ..index_benchmark import SyntheticGallery
from .comparison import compare
from .settings import BenchmarkSettings

_LENGTH = 128
_CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("exact", {}),
    ("faiss", {}),
    ("faiss", {"probed": 1.0}),
)

Found = list[tuple[np.ndarray, np.ndarray]]
"""For each query the image ids and similarities (k,) of its rank list."""


def search(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """Rank lists of queries that come together, from indexes on the disk.

    The naive loop has the gallery in memory in single precision; the indexes map half precision.

    Returns:
        A row for each backend and setting. "max_abs_diff" is of the similarities of the images
        that both ways rank; "recall" is the part of the naive lists' images that ours hold.
    """
    gallery = SyntheticGallery(2_000, 32, 8) if settings.is_small else SyntheticGallery(200_000)
    batches = list(gallery.batches())
    embeddings = np.concatenate([one.embeddings for _, some in batches for one in some])
    # What is stored: half precision.
    embeddings = embeddings.astype(np.float16).astype(np.float32)
    counts = [len(one.embeddings) for _, some in batches for one in some]
    starts = np.cumsum([0, *counts[:-1]])
    queries = gallery.queries()
    length = min(_LENGTH, len(counts) // 4)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for backend in ("exact", "faiss"):
            with create_region_index(backend, Path(folder) / backend) as index:
                for ids, regions in batches:
                    index.add(ids, regions)
                index.persist()
        for backend, options in _CASES:
            with open_region_index(Path(folder) / backend, **options) as index:
                measured = compare(
                    " ".join([backend, *(f"{key}={value}" for key, value in options.items())]),
                    lambda: _naive(embeddings, starts, queries, length),
                    _search(index, queries, length),
                    _difference,
                    settings,
                )
            rows.append(
                {
                    **measured.row,
                    "recall": _recall(measured.reference, measured.ours),
                    "regions": len(embeddings),
                    "queries": len(queries),
                    "our_ms_per_query": 1000 * measured.row["our_seconds"] / len(queries),
                }
            )
    return rows


def _naive(embeddings: np.ndarray, starts: np.ndarray, queries: np.ndarray, length: int) -> Found:
    """Query by query: all similarities, the largest of each image, all images sorted."""
    found = []
    for query in queries:
        best = np.maximum.reduceat(embeddings @ query, starts)
        order = np.argsort(-best, kind="stable")[:length]
        found.append((order, best[order]))
    return found


def _search(index: RegionIndex, queries: np.ndarray, length: int) -> Callable[[], Found]:
    ids = list(range(len(queries)))

    def way() -> Found:
        lists = index.search(ids, queries, length)
        return [(lists[i].image_ids, lists[i].similarities) for i in ids]

    return way


def _difference(reference: Found, ours: Found) -> float:
    largest = 0.0
    for (ids, similarities), (our_ids, our_similarities) in zip(reference, ours, strict=True):
        _, place, our_place = np.intersect1d(ids, our_ids, return_indices=True)
        gaps = np.abs(similarities[place] - our_similarities[our_place])
        largest = max(largest, float(gaps.max(initial=0)))
    return largest


def _recall(reference: Found, ours: Found) -> float:
    pairs = zip(reference, ours, strict=True)
    return float(np.mean([np.isin(ids, our_ids).mean() for (ids, _), (our_ids, _) in pairs]))
