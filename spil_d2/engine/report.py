"""What a run did, as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..evaluation import GroundTruth, box_iou
from ..structures import Box, Query, RankLists
from ..utils.picture_files import read_pixels
from .visualize import BoxKind, StripEntry, draw_boxes, draw_entry

logger = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent / "templates"
_THUMBNAIL_SIDE = 320
_JPEG_QUALITY = 82

NUM_RESULTS = 8
"""Results that a report draws of each query."""


@dataclass(frozen=True)
class MetricRow:
    """One number, before (the search's boxes) and after (the localizer's).

    Attributes:
        name: e.g. "mIoU_TP@128".
        before, after: in percent; `before` None where it has no counterpart.
    """

    name: str
    before: float | None
    after: float


@dataclass(frozen=True)
class StageRow:
    """One stage of self-training.

    Attributes:
        stage: its name, e.g. "search" or "stage 2".
        miou: mIoU of its boxes in percent, where the truth is known.
        kept, total: pseudo-labels it was trained on, and candidates they were chosen from.
        mean_weight: mean weight of the kept ones, 0 to 1.
    """

    stage: str
    miou: float | None = None
    kept: int | None = None
    total: int | None = None
    mean_weight: float | None = None


@dataclass(frozen=True)
class ReportEntry:
    """One gallery image in the rank list of a query. Boxes are in pixels of the stored image.

    Attributes:
        file_name: path of the picture.
        similarity: what the search ranked by.
        search_box: before localization; None where the search gives no boxes.
        final_box: after it; None where the localizer found nothing, which is an IoU of 0.
        gt_boxes: the instance's boxes, where known.
        is_relevant: whether the image shows the instance; None where it is not known.
        probability: of the final box, 0 to 1.
        mask: (H, W) bool, of the final box.
    """

    file_name: str
    similarity: float
    search_box: Box | None = None
    final_box: Box | None = None
    gt_boxes: Sequence[Box] = ()
    is_relevant: bool | None = None
    probability: float | None = None
    mask: np.ndarray | None = None

    @property
    def iou_before(self) -> float | None:
        """IoU of the search's box with the nearest true one; None where either is unknown."""
        return None if self.search_box is None else self._iou(self.search_box)

    @property
    def iou_after(self) -> float | None:
        """IoU of the final box, 0 where there is none; None without true boxes."""
        return self._iou(self.final_box)

    @property
    def improvement(self) -> float | None:
        """IoU after minus IoU before, -1 to 1; None where one of them is not known."""
        before, after = self.iou_before, self.iou_after
        return None if before is None or after is None else after - before

    def _iou(self, box: Box | None) -> float | None:
        if not len(self.gt_boxes):
            return None
        if box is None:
            return 0.0
        return float(box_iou(np.array(box), np.array(self.gt_boxes)).max())


@dataclass(frozen=True)
class ReportQuery:
    """A query and its results, best first. The report draws the first ones; all can fail."""

    query: Query
    entries: Sequence[ReportEntry]
    name: str = ""

    @property
    def title(self) -> str:
        """Its name, or its number."""
        return self.name or f"Query {self.query.id}"


def build_report_queries(
    queries: Iterable[Query],
    dataset_dicts: Iterable[dict],
    search_lists: RankLists,
    final_lists: RankLists,
    ground_truth: GroundTruth | None = None,
    num_entries: int = 128,
    masks: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> list[ReportQuery]:
    """Put the results of a search and of a localizer side by side.

    Args:
        queries: those to show, in order; each has a list in `final_lists`.
        dataset_dicts: the gallery, for the names of its pictures.
        search_lists: boxes before localization.
        final_lists: boxes after; their order is the order shown. The query's own images are left
            out.
        ground_truth: where it is known.
        num_entries: images of a query to take.
        masks: (query id, image id) -> (H, W) bool mask of the final box, where there is one.

    Raises:
        KeyError: for a query without a list, or an image that the gallery does not hold.
    """
    names = {int(record["image_id"]): str(record["file_name"]) for record in dataset_dicts}
    found = []
    for query in queries:
        final, search = final_lists[query.id], search_lists[query.id]
        before = dict(zip(search.image_ids.tolist(), search.boxes.tolist(), strict=True))
        truth = None if ground_truth is None else ground_truth.relevant.get(query.id, {})
        entries = []
        for i, image_id in enumerate(final.image_ids.tolist()):
            if image_id in query.own_image_ids:
                continue
            entries.append(
                ReportEntry(
                    file_name=names[image_id],
                    similarity=float(final.similarities[i]),
                    search_box=_as_box(before.get(image_id)),
                    final_box=_as_box(final.boxes[i].tolist()),
                    gt_boxes=() if truth is None else _as_boxes(truth.get(image_id)),
                    is_relevant=None if truth is None else image_id in truth,
                    probability=_at(final.probabilities, i),
                    mask=None if masks is None else masks.get((query.id, image_id)),
                )
            )
        found.append(ReportQuery(query, entries[:num_entries]))
    return found


def worst_improvements(
    queries: Sequence[ReportQuery], count: int
) -> list[tuple[ReportQuery, int, ReportEntry]]:
    """The boxes that localization helped least, as (query, rank from 1, entry), worst first.

    Only images with a known truth and a search box can be compared; one where the localizer found
    nothing lost all it had.
    """
    known = [
        (entry.improvement, query, rank, entry)
        for query in queries
        for rank, entry in enumerate(query.entries, 1)
        if entry.improvement is not None
    ]
    known.sort(key=lambda one: one[0])
    return [(query, rank, entry) for _, query, rank, entry in known[:count]]


def write_report(
    path: str | Path,
    title: str,
    metrics_rows: Sequence[MetricRow],
    stage_rows: Sequence[StageRow] = (),
    curves_png: str | Path | None = None,
    queries: Sequence[ReportQuery] = (),
    *,
    subtitle: str = "",
    num_results: int = NUM_RESULTS,
    num_failures: int = 8,
) -> None:
    """Write a self-contained HTML report; pictures are embedded as JPEG thumbnails.

    Args:
        path: the HTML file; its folder is made where it does not exist.
        title: its heading.
        metrics_rows: numbers before and after, the most important first.
        stage_rows: the stages in order.
        curves_png: the Recall-IoU plot, e.g. from `plots.plot_recall_iou`.
        queries: whose results are shown. Boxes that got worse are picked from all their entries.
        subtitle: a line under the heading: dataset, weights, protocol.
        num_results: results drawn for each query.
        num_failures: boxes drawn in "Where it fails".

    Raises:
        FileNotFoundError: naming a picture that is not there.
    """
    context = {
        "title": title,
        "subtitle": subtitle,
        "metrics": metrics_rows,
        "stages": stage_rows,
        "best_miou": max((row.miou for row in stage_rows if row.miou is not None), default=None),
        "plot": None if curves_png is None else _data_uri(Path(curves_png).read_bytes(), "png"),
        "queries": [_query_view(query, num_results) for query in queries],
        "failures": [_failure_view(*one) for one in worst_improvements(queries, num_failures)],
        "lost": [_thumbnail_view(one) for one in queries if _is_lost(one, num_results)],
        "num_results": num_results,
        "kinds": {
            kind.name.lower(): {"label": kind.label, "rgb": "rgb({}, {}, {})".format(*kind.colour)}
            for kind in BoxKind
        },
    }
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.get_template("report.html").render(context), encoding="utf-8")
    logger.info("Report of %d queries is in %s", len(queries), path)


def _query_view(one: ReportQuery, num_results: int) -> dict:
    shown = one.entries[:num_results]
    cards = [_entry_view(entry, rank) for rank, entry in enumerate(shown, 1)]
    return {
        **_thumbnail_view(one),
        "cards": cards,
        "known": sum(entry.is_relevant is not None for entry in shown),
        "correct": sum(entry.is_relevant is True for entry in shown),
    }


def _thumbnail_view(one: ReportQuery) -> dict:
    primary = one.query.primary
    picture = draw_boxes(
        read_pixels(primary.file_name, "RGB"), [(primary.box, BoxKind.QUERY)], _THUMBNAIL_SIDE
    )
    return {
        "id": one.query.id,
        "title": one.title,
        "file": Path(primary.file_name).name,
        "picture": _jpeg(picture),
    }


def _entry_view(entry: ReportEntry, rank: int) -> dict:
    picture = draw_entry(
        StripEntry(
            image=read_pixels(entry.file_name, "RGB"),
            search_box=entry.search_box,
            final_box=entry.final_box,
            gt_boxes=entry.gt_boxes,
            mask=entry.mask,
        ),
        _THUMBNAIL_SIDE,
    )
    verdict = {True: "correct", False: "wrong", None: "unknown"}[entry.is_relevant]
    return {
        "rank": rank,
        "file": Path(entry.file_name).name,
        "picture": _jpeg(picture),
        "verdict": verdict,
        "similarity": entry.similarity,
        "probability": entry.probability,
        "before": entry.iou_before,
        "after": entry.iou_after,
        "improvement": entry.improvement,
    }


def _failure_view(query: ReportQuery, rank: int, entry: ReportEntry) -> dict:
    return {**_entry_view(entry, rank), "query": _thumbnail_view(query)}


def _is_lost(one: ReportQuery, num_results: int) -> bool:
    """Whether the truth is known and none of the results shown is right."""
    verdicts = [entry.is_relevant for entry in one.entries[:num_results]]
    return bool(verdicts) and all(verdict is False for verdict in verdicts)


def _jpeg(picture: np.ndarray) -> str:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return _data_uri(encoded.tobytes(), "jpeg")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _as_box(values: Sequence[float] | None) -> Box | None:
    # A box without area is how an image without detection is stored.
    if values is None or values[2] <= values[0] or values[3] <= values[1]:
        return None
    return (values[0], values[1], values[2], values[3])


def _as_boxes(values: np.ndarray | None) -> tuple[Box, ...]:
    return () if values is None else tuple(tuple(box) for box in values.tolist())


def _at(values: np.ndarray | None, index: int) -> float | None:
    return None if values is None else float(values[index])
