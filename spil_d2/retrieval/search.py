"""From pictures to an index, and from queries to rank lists."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ..ops.similarity import unit_rows
from ..structures import Query, RankList, RankLists, Reference
from ..utils.picture_files import UnreadablePictureError, read_pixels
from .engines.base import LocalizingEngine, Regions, SearchEngine
from .expansion import QueryExpansion
from .index import RegionIndex, create_region_index
from .rerank import KReciprocal

_BATCH = 8
# Regions that `write_index` has in memory.
_HELD_REGIONS = 1 << 15

BatchMap = Callable[[Sequence[Sequence[str]]], Iterable[list[Regions]]]
ImageReader = Callable[[int], np.ndarray]
Progress = Callable[[int, int], None]


def build_index(
    engine: SearchEngine,
    gallery: Sequence[Mapping[str, Any]],
    progress: Progress | None = None,
    *,
    is_centred: bool = False,
    map_batches: BatchMap | None = None,
) -> RegionIndex:
    """Index a gallery in memory.

    Args:
        engine: finds and embeds the regions.
        gallery: Detectron2 dataset dicts with `file_name` and `image_id`.
        progress: called with (images done, images in all) after each batch.
        is_centred: see `RegionIndex`; meant for galleries of dozens of pictures or more.
        map_batches: batches of files -> their regions, in order, instead of `engine` here.

    Raises:
        ValueError: for a picture that cannot be read, naming its file.
    """
    index = create_region_index("exact", is_centred=is_centred)
    for ids, regions in _batches(map_batches or _map_here(engine), gallery, progress):
        index.add(ids, regions)
    return index


def write_index(
    engine: SearchEngine,
    gallery: Sequence[Mapping[str, Any]],
    directory: Path,
    progress: Progress | None = None,
    *,
    is_centred: bool = False,
    map_batches: BatchMap | None = None,
) -> None:
    """What `build_index` makes, straight into a directory: some vectors at a time are in memory.

    Args:
        directory: without an index. Until all is done the regions lie in a folder of it, too.
        engine, gallery, progress, is_centred, map_batches: as for `build_index`.

    Raises:
        ValueError: for a picture that cannot be read, naming its file.
    """
    scratch = directory / "embeddings"
    # The mean is known in the end, so what is written first is not centred.
    with create_region_index("exact", scratch) as index:
        held = 0
        for ids, regions in _batches(map_batches or _map_here(engine), gallery, progress):
            index.add(ids, regions)
            held += sum(len(one.boxes) for one in regions)
            if held >= _HELD_REGIONS:
                index.persist()
                held = 0
        index.save(directory, is_centred=is_centred)
    shutil.rmtree(scratch)


def _batches(
    map_batches: BatchMap, gallery: Sequence[Mapping[str, Any]], progress: Progress | None
) -> Iterator[tuple[list[int], list[Regions]]]:
    """Image ids and regions of some pictures at a time, in the order of the gallery."""
    batches = [gallery[start : start + _BATCH] for start in range(0, len(gallery), _BATCH)]
    files = [[str(item["file_name"]) for item in batch] for batch in batches]
    done = 0
    for batch, found in zip(batches, map_batches(files)):
        yield [int(item["image_id"]) for item in batch], found
        done += len(batch)
        if progress is not None:
            progress(done, len(gallery))


def _map_here(engine: SearchEngine) -> BatchMap:
    return lambda files: (engine.regions([read_rgb(name) for name in one]) for one in files)


@dataclass(frozen=True)
class SearchSettings:
    """What is done to an engine's ranking.

    Attributes:
        expansion: query expansion before the gallery is ranked again; None for none.
        reciprocal: k-reciprocal re-ranking of the head of each list; None for none.
    """

    expansion: QueryExpansion | None = None
    reciprocal: KReciprocal | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SearchSettings:
        """As `cfg.SEARCH.QE` and `cfg.SEARCH.KRECIPROCAL` say."""
        qe, kr = cfg.SEARCH.QE, cfg.SEARCH.KRECIPROCAL
        return cls(
            QueryExpansion(qe.NUM_REGIONS, qe.ALPHA) if qe.ENABLED else None,
            KReciprocal(kr.K1, kr.K2, kr.WEIGHT, kr.SHORTLIST) if kr.ENABLED else None,
        )


def search(
    engine: SearchEngine,
    index: RegionIndex,
    queries: Sequence[Query],
    k: int,
    *,
    settings: SearchSettings | None = None,
    read_image: ImageReader | None = None,
) -> RankLists:
    """Rank the gallery for queries; an image that a query was taken from is not in its list.

    Args:
        engine: the one that the index was built with.
        index: of the gallery.
        queries: what to search for.
        k: length of the lists at most.
        settings: query expansion and re-ranking; None for neither.
        read_image: image id -> (H, W, 3) uint8 RGB; only a `LocalizingEngine` needs it.

    Raises:
        ValueError: a `LocalizingEngine` without `read_image`.
    """
    if not queries:
        return RankLists(())
    if isinstance(engine, LocalizingEngine) and read_image is None:
        raise ValueError(
            f"{type(engine).__name__} looks for boxes in the ranked pictures: search needs "
            "read_image"
        )
    lists = rank_gallery(index, queries, embed_queries(engine, queries), k, settings)
    if isinstance(engine, LocalizingEngine) and read_image is not None:
        (lists,) = localize_lists(engine, queries, [lists], read_image)
    return lists


def rank_gallery(
    index: RegionIndex,
    queries: Sequence[Query],
    embeddings: np.ndarray,
    k: int,
    settings: SearchSettings | None = None,
) -> RankLists:
    """Rank the gallery by embeddings that are there already; arguments as for `search`.

    Args:
        embeddings: (Q, D) of the queries, as `embed_queries` returns them.
    """
    settings = settings or SearchSettings()
    ids, own = [query.id for query in queries], [query.own_image_ids for query in queries]
    if settings.expansion is not None:
        lists = index.search(ids, embeddings, settings.expansion.num_regions, own)
        embeddings = settings.expansion.apply(embeddings, lists, index)
    if settings.reciprocal is None:
        return index.search(ids, embeddings, k, own)
    lists = index.search(ids, embeddings, max(k, settings.reciprocal.shortlist), own)
    return settings.reciprocal.apply(embeddings, lists, index).top(k)


def localize_lists(
    engine: LocalizingEngine,
    queries: Sequence[Query],
    many: Sequence[RankLists],
    read_image: ImageReader,
) -> list[RankLists]:
    """Rank lists with the engine's boxes in place of the regions'.

    A query of several references is looked for by its primary one. Each gallery picture is read
    and passed through the backbone once, whatever the number of lists that it is in.

    Args:
        engine: that the lists come from.
        queries: of the lists.
        many: several sets of rank lists of the same queries, e.g. before and after re-ranking.
        read_image: image id -> (H, W, 3) uint8 RGB.
    """
    cues = _cues(engine, queries)
    wanted: dict[int, set[int]] = defaultdict(set)
    for lists in many:
        for one in lists.lists:
            for image_id in one.image_ids.tolist():
                wanted[image_id].add(one.query_id)
    boxes: dict[tuple[int, int], np.ndarray] = {}
    for image_id, members in wanted.items():
        found = engine.localize(read_image(image_id), [cues[query_id] for query_id in members])
        boxes.update({(query_id, image_id): box for query_id, box in zip(members, found)})
    return [RankLists(tuple(_with_boxes(one, boxes) for one in lists.lists)) for lists in many]


def _cues(engine: LocalizingEngine, queries: Sequence[Query]) -> dict[int, Any]:
    places: dict[str, list[Query]] = defaultdict(list)
    for query in queries:
        places[query.primary.file_name].append(query)
    cues = {}
    for file_name, members in places.items():
        boxes = np.array([query.primary.box for query in members], np.float32)
        found = engine.cues(read_rgb(file_name), boxes)
        cues.update({query.id: cue for query, cue in zip(members, found)})
    return cues


def _with_boxes(one: RankList, boxes: Mapping[tuple[int, int], np.ndarray]) -> RankList:
    rows = [boxes[one.query_id, image_id] for image_id in one.image_ids.tolist()]
    return replace(one, boxes=np.array(rows, np.float32).reshape(-1, 4))


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
    return unit_rows(sums)


def read_rgb(file_name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned as EXIF says.

    Raises:
        ValueError: naming the file, where it is missing or no readable picture.
    """
    try:
        return read_pixels(file_name, "RGB")
    except UnreadablePictureError as error:
        raise ValueError(f"{error}: repair it or take it out of the gallery") from error
