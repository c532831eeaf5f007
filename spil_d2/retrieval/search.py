"""From pictures to an index, and from queries to rank lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image

from ..structures import Query, RankLists, Reference
from .engines.base import Regions, SearchEngine
from .region_index import RegionIndex

_BATCH = 8

BatchMap = Callable[[Sequence[Sequence[str]]], Iterable[list[Regions]]]


def build_index(
    engine: SearchEngine,
    gallery: Sequence[Mapping[str, Any]],
    progress: Callable[[int, int], None] | None = None,
    *,
    is_centred: bool = False,
    map_batches: BatchMap | None = None,
) -> RegionIndex:
    """Index a gallery.

    Args:
        engine: finds and embeds the regions.
        gallery: Detectron2 dataset dicts with `file_name` and `image_id`.
        progress: called with (images done, images in all) after each batch.
        is_centred: see `RegionIndex`; meant for galleries of dozens of pictures or more.
        map_batches: batches of files -> their regions, in order, instead of `engine` here.

    Raises:
        ValueError: for a picture that cannot be read, naming its file.
    """
    batches = [gallery[start : start + _BATCH] for start in range(0, len(gallery), _BATCH)]
    files = [[str(item["file_name"]) for item in batch] for batch in batches]
    index = RegionIndex(is_centred=is_centred)
    ids: list[int] = []
    regions: list[Regions] = []
    for batch, found in zip(batches, (map_batches or _map_here(engine))(files)):
        ids += [int(item["image_id"]) for item in batch]
        regions += found
        if progress is not None:
            progress(len(ids), len(gallery))
    index.add(ids, regions)
    return index


def _map_here(engine: SearchEngine) -> BatchMap:
    return lambda files: (engine.regions([read_rgb(name) for name in one]) for one in files)


def search(engine: SearchEngine, index: RegionIndex, queries: Sequence[Query], k: int) -> RankLists:
    """Rank the gallery for queries; an image that a query was taken from is not in its list.

    Args:
        engine: the one that the index was built with.
        index: of the gallery.
        queries: what to search for.
        k: length of the lists at most.
    """
    if not queries:
        return RankLists(())
    embeddings = embed_queries(engine, queries)
    ids = [query.id for query in queries]
    return index.search(ids, embeddings, k, [query.own_image_ids for query in queries])


def embed_queries(engine: SearchEngine, queries: Sequence[Query]) -> np.ndarray:
    """(Q, D) float32, L2-normalized: the mean of a query's references, normalized again.

    A picture that several queries share is read and passed through the backbone once.
    """
    places: dict[str, list[tuple[int, Reference]]] = defaultdict(list)
    for row, query in enumerate(queries):
        for reference in query.references:
            places[reference.file_name].append((row, reference))
    sums: np.ndarray | None = None
    for file_name, members in places.items():
        boxes = np.array([reference.box for _, reference in members], np.float32)
        embeddings = engine.embed(read_rgb(file_name), boxes)
        if sums is None:
            sums = np.zeros((len(queries), embeddings.shape[1]), np.float32)
        np.add.at(sums, [row for row, _ in members], embeddings)
    if sums is None:
        raise ValueError("no queries to embed")
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def read_rgb(file_name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as EXIF says.

    Raises:
        ValueError: naming the file, where it is missing or no readable picture.
    """
    try:
        return np.ascontiguousarray(read_image(file_name, "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(
            f"{file_name} is not a readable picture ({error}): repair it or "
            "take it out of the gallery"
        ) from error
