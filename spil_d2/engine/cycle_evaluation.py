"""Table 8 of CST: localizer, ranker and the system of both, after each round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from detectron2.utils import comm
from tabulate import tabulate

from ..data.region_crops import Region
from ..evaluation.ins_evaluator import evaluate_localizer, evaluate_regions
from ..evaluation.ins_protocol import Protocol
from ..evaluation.ranker_metrics import gallery_crops, query_crops, ranker_metrics
from ..structures import Query
from .cycle_data import CycleData
from .localizer import Localizer
from .ranker_inference import RegionEmbedder, crop_regions
from .region_search import best_boxes, localize_queries, rank_regions

TABLE_COLUMNS = {
    "round": "round",
    "system/rank-1": "system rank-1",
    "system/mAP": "mAP",
    "localizer/Recall@20": "localizer Recall@20",
    "localizer/mAP": "mAP",
    "ranker/rank-1": "ranker rank-1",
    "ranker/mAP": "mAP",
}
"""Key of a row -> header; all but the round in percent."""


def evaluate_system(
    localizer: Localizer,
    embedder: RegionEmbedder,
    data: CycleData,
    *,
    boxes_per_image: int,
    share_iou: float,
) -> dict | None:
    """Search the test set for every query, where its protocol does, and judge both models and what
    they find.

    Args:
        localizer: over test gallery and queries.
        embedder: the ranker.
        data: with the test set.
        boxes_per_image: boxes of an image that are ranked.
        share_iou: see `rank_regions`.

    Returns:
        On the main process the keys of `TABLE_COLUMNS` but the round, and "metrics": all metrics
        under their own keys; elsewhere None.
    """
    judged = {query.query_id for query in data.protocol.queries}
    queries = [query for query in data.queries if query.id in judged]
    wanted = searched_images(data.protocol)
    found = localize_queries(localizer, queries, wanted, "searching the test set")
    if not comm.is_main_process():
        return None
    assert found is not None
    best = best_boxes(found, boxes_per_image)
    ranked = rank_regions(best, embedder, queries, data.test, share_iou)
    metrics = {
        **evaluate_regions(data.protocol, ranked),
        **evaluate_localizer(data.protocol, found),
        **_evaluate_ranker(embedder, queries, data.test),
    }
    return {**summarize_metrics(metrics, data.protocol), "metrics": metrics}


def searched_images(protocol: Protocol) -> dict[int, list[int]]:
    """Image id -> ids of the queries for which boxes on the image count."""
    wanted: dict[int, list[int]] = defaultdict(list)
    for query in protocol.queries:
        for image_id in protocol.image_ids[protocol.counts(query)].tolist():
            wanted[image_id].append(query.query_id)
    return dict(wanted)


def summarize_metrics(metrics: dict[str, float], protocol: Protocol) -> dict[str, float]:
    """The columns of `TABLE_COLUMNS` out of metrics under their own keys."""
    threshold = f"IoU{protocol.rules.iou_threshold:g}"
    localizer = f"{protocol.positives_only().key}/localizer"
    cameras = "separate" if protocol.rules.separate_cameras else "all"
    return {
        "system/rank-1": metrics[f"{protocol.key}/rank-1@{threshold}"],
        "system/mAP": metrics[f"{protocol.key}/mAP_retrieval@{threshold}"],
        "localizer/Recall@20": metrics[f"{localizer}/Recall@20@{threshold}"],
        "localizer/mAP": metrics[f"{localizer}/mAP@{threshold}"],
        "ranker/rank-1": metrics[f"ranker/{cameras}_cameras/rank-1"],
        "ranker/mAP": metrics[f"ranker/{cameras}_cameras/mAP"],
    }


def growing_table(rows: Sequence[dict]) -> str:
    """Rows of `evaluate_system` with "round", as a Markdown table."""
    cells = [
        [f"{row[key]:.1f}" if key != "round" else row[key] for key in TABLE_COLUMNS] for row in rows
    ]
    return tabulate(cells, list(TABLE_COLUMNS.values()), tablefmt="pipe", disable_numparse=True)


def _evaluate_ranker(
    embedder: RegionEmbedder, queries: Sequence[Query], gallery: Sequence[dict]
) -> dict[str, float]:
    """Query crops against all annotated crops."""
    known = {int(one["image_id"]): one["camera"] for one in gallery if one.get("camera")}
    cameras = known or None
    crops = gallery_crops(gallery, cameras)
    shown = [Region(one.primary.file_name, one.primary.box) for one in queries]
    embeddings = embedder.embed([*shown, *crop_regions(gallery, crops)])
    first, rest = np.split(embeddings, [len(shown)])
    return ranker_metrics(first, rest, query_crops(queries, cameras), crops)
