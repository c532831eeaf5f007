"""How well embeddings of given crops rank: the ranker alone, without any localizer.

Each query crop ranks all gallery crops by cosine similarity. The query's own crop never counts.
Reported twice: "separate_cameras" also takes out the crops of the same identity and camera,
"all_cameras" does not. Where the official code removes the first result of every query when it
looks like the query itself, the own crop is known here; and its AP divides by hits + 1e-5, ours by
the hits.

Shape shorthand: Q queries, G gallery crops, D numbers an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import BoxMode

from ..structures import Query
from .ins_metrics import QueryOutcome, average_precision

RANKS = (1, 5, 10)
_QUERIES_AT_ONCE = 128


OUTSIDE = -1
"""The image id of a crop from a picture outside the gallery."""


@dataclass(frozen=True)
class Crops:
    """Labelled boxes to embed, in the order of the embeddings. Shape shorthand: N crops.

    Attributes:
        image_ids: (N,) int64; `OUTSIDE` for a picture outside the gallery.
        boxes: (N, 4) float64, XYXY_ABS in pixels of the stored image.
        identities: (N,) int64; below 0 for nobody in particular.
        cameras: (N,) int64, or None where there are none.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    identities: np.ndarray
    cameras: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)


def gallery_crops(dataset_dicts: Sequence[dict], cameras: Mapping[int, int] | None = None) -> Crops:
    """Every annotated box of a dataset, in its order.

    Args:
        dataset_dicts: Detectron2 dicts whose annotations carry "instance_id".
        cameras: image id -> camera, where there are cameras.
    """
    rows = [
        (
            int(record["image_id"]),
            BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYXY_ABS),
            int(one["instance_id"]),
        )
        for record in dataset_dicts
        for one in record.get("annotations", ())
    ]
    return _crops(rows, cameras)


def query_crops(queries: Sequence[Query], cameras: Mapping[int, int] | None = None) -> Crops:
    """The primary box of each query, in their order.

    Args:
        queries: with known `instance_id`.
        cameras: image id -> camera, where there are cameras.

    Raises:
        ValueError: a query without `instance_id`.
    """
    rows = []
    for query in queries:
        if query.instance_id is None:
            raise ValueError(f"query {query.id} has no instance_id and cannot be judged")
        image_id = query.primary.image_id
        image_id = OUTSIDE if image_id is None else image_id
        rows.append((image_id, list(query.primary.box), query.instance_id))
    return _crops(rows, cameras)


def ranker_metrics(
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    queries: Crops,
    gallery: Crops,
    key: str = "ranker",
) -> dict[str, float]:
    """Rank gallery crops for each query crop.

    A crop of the query's identity in the query's own image is the query itself and is taken out.
    Queries without any other crop of their identity are left out. Ties are in gallery order.

    Args:
        query_embeddings: (Q, D), any length; they are normalized here.
        gallery_embeddings: (G, D), likewise.
        queries: whose crops they are.
        gallery: likewise.
        key: what the metrics are named after.

    Returns:
        In percent: `KEY/all_cameras/{mAP,rank-1,rank-5,rank-10}` and, with cameras, the same as
        `KEY/separate_cameras/...`.

    Raises:
        ValueError: shapes that do not fit, or no query that can be judged.
    """
    if len(query_embeddings) != len(queries) or len(gallery_embeddings) != len(gallery):
        raise ValueError(
            f"{len(query_embeddings)} and {len(gallery_embeddings)} embeddings do not belong to "
            f"{len(queries)} queries and {len(gallery)} gallery crops"
        )
    settings = {"all_cameras": False}
    if queries.cameras is not None and gallery.cameras is not None:
        settings["separate_cameras"] = True
    metrics = {}
    similarities = _normalize(query_embeddings), _normalize(gallery_embeddings)
    for name, separate in settings.items():
        outcomes = list(_outcomes(*similarities, queries, gallery, separate))
        if not outcomes:
            raise ValueError(f"{key}/{name}: no query has another crop of its identity")
        values = {"mAP": [average_precision(one) for one in outcomes]}
        values |= {f"rank-{k}": [float(one.hits(k) > 0) for one in outcomes] for k in RANKS}
        for metric, per_query in values.items():
            metrics[f"{key}/{name}/{metric}"] = 100.0 * float(np.mean(per_query))
    return metrics


def _outcomes(
    query_embeddings: np.ndarray,
    gallery_embeddings: np.ndarray,
    queries: Crops,
    gallery: Crops,
    separate_cameras: bool,
) -> Iterator[QueryOutcome]:
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = slice(start, start + _QUERIES_AT_ONCE)
        similarities = query_embeddings[some] @ gallery_embeddings.T
        for q, row in enumerate(similarities, start=start):
            is_same = gallery.identities == queries.identities[q]
            is_out = is_same & (gallery.image_ids == queries.image_ids[q])
            if separate_cameras:
                assert gallery.cameras is not None and queries.cameras is not None
                is_out |= is_same & (gallery.cameras == queries.cameras[q])
            kept = np.flatnonzero(~is_out)
            order = kept[np.argsort(-row[kept], kind="stable")]
            ranks = np.flatnonzero(is_same[order]) + 1
            if len(ranks):
                yield QueryOutcome(str(q), len(ranks), len(order), ranks)


def _normalize(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, np.finfo(np.float64).tiny)


def _crops(
    rows: Sequence[tuple[int, list[float], int]], cameras: Mapping[int, int] | None
) -> Crops:
    image_ids = np.array([row[0] for row in rows], np.int64)
    of_image = None
    if cameras is not None:
        of_image = np.array([cameras.get(int(i), OUTSIDE) for i in image_ids], np.int64)
    return Crops(
        image_ids,
        np.array([row[1] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], np.int64),
        of_image,
    )
