"""Made-up galleries for tests of the index of regions, and the loop that it is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spil_d2.retrieval import Regions
from spil_d2.retrieval.index import (
    RegionIndex,
    create_region_index,
)
from spil_d2.structures import RankList

SIZE = 8
# Everything is probed, so that approximate backends must give what the loop gives.
OPTIONS: dict[str, dict] = {"exact": {}, "faiss": {"probed": 1.0}, "milvus": {"probed": 1.0}}
LIBRARIES = {"exact": "numpy", "faiss": "faiss", "milvus": "pymilvus"}

Gallery = dict[int, Regions]


def make_regions(rng: np.random.Generator, count: int, size: int = SIZE) -> Regions:
    embeddings = unit(rng.normal(size=(count, size)) + 0.5).astype(np.float16).astype(np.float32)
    boxes = rng.uniform(0, 100, (count, 4)).astype(np.float32)
    return Regions(boxes, rng.random(count).astype(np.float32), embeddings)


def make_gallery(count: int, first: int = 0, seed: int = 0) -> Gallery:
    rng = np.random.default_rng(seed)
    ids = first + rng.permutation(count)
    return {int(i): make_regions(rng, int(rng.integers(1, 6))) for i in ids}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def make_queries(count: int, seed: int = 1) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, SIZE))).astype(np.float32)


def create(backend: str, directory: Path | None, is_centred: bool = False) -> RegionIndex:
    return create_region_index(backend, directory, is_centred=is_centred, **OPTIONS[backend])


def add(index: RegionIndex, gallery: Gallery) -> None:
    index.add(list(gallery), list(gallery.values()))


def mean_of(gallery: Gallery) -> np.ndarray:
    return np.mean([row for one in gallery.values() for row in one.embeddings], 0, np.float64)


def check(found: RankList, gallery: Gallery, query: np.ndarray, k: int, mean=None) -> None:
    """Compare a rank list with the loop over all regions of the images that may be ranked.

    Centred vectors are rounded twice, so images whose similarities differ by less than that may
    change places.
    """
    best = {}
    for image_id, regions in gallery.items():
        values = []
        for row in regions.embeddings:
            one, two = (row, query) if mean is None else (unit(row - mean), unit(query - mean))
            values.append(sum(float(a) * float(b) for a, b in zip(one, two)))
        place = int(np.argmax(values))
        best[image_id] = values[place], regions.boxes[place].tolist()
    order = sorted(best, key=lambda i: (-best[i][0], i))[:k]
    if mean is None:
        assert found.image_ids.tolist() == order
    np.testing.assert_allclose(found.similarities, [best[i][0] for i in order], atol=2e-3)
    own = [best[i] for i in found.image_ids.tolist()]
    np.testing.assert_allclose(found.similarities, [one[0] for one in own], atol=2e-3)
    assert found.boxes.tolist() == [one[1] for one in own]
