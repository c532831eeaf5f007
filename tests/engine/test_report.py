"""The report: what it draws, in which order, and that it is one safe file."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from spil_d2.data.pictures import UnreadablePictureError
from spil_d2.engine.plots import plot_recall_iou
from spil_d2.engine.report import (
    MetricRow,
    ReportEntry,
    ReportQuery,
    StageRow,
    build_report_queries,
    worst_improvements,
    write_report,
)
from spil_d2.evaluation import GroundTruth, RecallIoUCurve
from spil_d2.structures import Query, RankList, RankLists, Reference

VOID = {"meta", "img", "br", "input", "link", "hr"}
NASTY = '<b>&"nasty".png'


class _Page(HTMLParser):
    """Collects text, images and ids, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.images, self.ids, self.links = "", [], set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "img":
            self.images.append(given)
        self.links += [given[name] for name in ("href", "src") if name in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += text


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    names = ["query.png", NASTY, "b.png", "c.png"]
    for name, picture in zip(
        names, [data.astronaut(), data.rocket(), data.coffee(), data.chelsea()], strict=True
    ):
        Image.fromarray(picture).resize((200, 150)).save(tmp_path / name)
    return [str(tmp_path / name) for name in names]


@pytest.fixture
def queries(pictures: list[str]) -> list[ReportQuery]:
    gt = ((0.0, 0.0, 100.0, 100.0),)
    better = ReportEntry(pictures[1], 0.9, (0, 0, 50, 100), (0, 0, 100, 100), gt, True, 0.8)
    worse = ReportEntry(pictures[2], 0.8, (0, 0, 100, 100), (0, 0, 25, 100), gt, True, 0.7)
    wrong = ReportEntry(pictures[3], 0.7, (0, 0, 50, 50), None, (), False)
    unknown = ReportEntry(pictures[3], 0.6, None, (0, 0, 50, 50))
    query = Query(7, (Reference(pictures[0], 200, 150, (10, 10, 90, 90)),), 1)
    other = Query(8, (Reference(pictures[0], 200, 150, (10, 10, 90, 90)),), 1)
    return [
        ReportQuery(query, [better, worse, wrong, unknown]),
        ReportQuery(other, [wrong], name="<i>lost</i>"),
    ]


def _write(path: Path, queries: list[ReportQuery], **options: object) -> _Page:
    metrics = [MetricRow("mIoU_TP@128", 34.2, 51.04), MetricRow("AP_lab@128", None, 45.5)]
    stages = [StageRow("search", 34.2), StageRow("stage 1", 51.04, 1234, 27136, 0.994)]
    write_report(path, "A < B", metrics, stages, queries=queries, **options)
    return _Page(path.read_text(encoding="utf-8"))


def test_page_holds_numbers_stages_and_every_query(
    tmp_path: Path, queries: list[ReportQuery]
) -> None:
    page = _write(tmp_path / "new/report.html", queries)
    words = " ".join(page.text.split())
    for expected in (
        "A < B",
        "34.2 → 51.0",
        "▲ +16.8",
        "1,234 / 27,136 (5 %)",
        "0.994",
        "Query 7",
        "2 of the first 3 correct",
        "✓ correct",
        "✗ wrong",
        "truth unknown",
        "0.50 → 1.00",
        "1.00 → 0.25",
        "Where it fails",
        "No correct image among the first 8",
    ):
        assert expected in words
    assert {"query-7", "query-8"} <= page.ids


def test_names_are_escaped(tmp_path: Path, queries: list[ReportQuery]) -> None:
    page = _write(tmp_path / "report.html", queries)
    assert NASTY in page.text
    assert any(NASTY in image["alt"] for image in page.images)
    assert "<i>lost</i>" in page.text
    assert "&lt;b&gt;&amp;" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_page_needs_no_other_file_and_pictures_decode(
    tmp_path: Path, queries: list[ReportQuery]
) -> None:
    page = _write(tmp_path / "report.html", queries)
    assert all(link.startswith(("data:image/", "#query-")) for link in page.links)
    for image in page.images:
        kind, content = image["src"].split(",", 1)
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (200, 150)


def test_only_the_first_results_are_drawn_but_all_can_fail(
    tmp_path: Path, queries: list[ReportQuery]
) -> None:
    page = _write(tmp_path / "report.html", queries[:1], num_results=1, num_failures=1)
    # Query, one result; the failing second result and its query.
    assert len(page.images) == 4
    assert "b.png" in page.text
    assert [rank for _, rank, _ in worst_improvements(queries, 5)] == [2, 1]


def test_a_picture_where_nothing_was_found_is_the_worst_failure(
    queries: list[ReportQuery],
) -> None:
    one = queries[0]
    nothing = replace(one.entries[1], final_box=None)
    assert (nothing.iou_after, nothing.improvement) == (0.0, -1.0)
    found = worst_improvements([ReportQuery(one.query, [*one.entries, nothing])], 1)
    assert found[0][2] is nothing


def test_run_without_truth_stages_or_queries(tmp_path: Path, queries: list[ReportQuery]) -> None:
    unknown = ReportQuery(queries[0].query, queries[0].entries[3:])
    page = _write(tmp_path / "a.html", [unknown])
    assert "cannot be compared" in page.text
    write_report(tmp_path / "b.html", "Empty", [])
    assert "Results" not in _Page((tmp_path / "b.html").read_text(encoding="utf-8")).text


def test_plot_is_embedded(tmp_path: Path) -> None:
    thresholds = np.arange(21) / 20
    curve = RecallIoUCurve(thresholds, 0.9 - 0.9 * thresholds, 1 - thresholds)
    plot_recall_iou({"DASR": curve, "stage 3": curve}, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size[0] > 600
    write_report(tmp_path / "a.html", "Plot", [], curves_png=tmp_path / "plot.png")
    page = _Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert page.images[0]["src"].startswith("data:image/png;base64,")
    with pytest.raises(ValueError, match="no Recall-IoU curve"):
        plot_recall_iou({}, tmp_path / "none.png")


def test_missing_picture_is_named(tmp_path: Path, queries: list[ReportQuery]) -> None:
    Path(queries[0].entries[1].file_name).unlink()
    with pytest.raises(UnreadablePictureError, match="b.png"):
        _write(tmp_path / "report.html", queries)


def test_build_from_rank_lists() -> None:
    query = Query(1, (Reference("q.jpg", 100, 100, (0, 0, 10, 10), image_id=5),), 9)
    box = np.array([[0, 0, 10, 10]] * 3, np.float32)
    similarities = np.array([3, 2, 1], np.float32)
    search = RankLists((RankList(1, np.array([5, 6, 7]), box, similarities),))
    nothing = np.array([[0, 0, 20, 10], [0, 0, 0, 0], [0, 0, 10, 10]], np.float32)
    final = RankLists((RankList(1, np.array([6, 7, 5]), nothing, similarities, similarities / 3),))
    truth = GroundTruth(
        {1: {6: np.array([[0, 0, 20, 10]], np.float32)}}, {1: {5}}, frozenset({5, 6, 7})
    )
    gallery = [{"image_id": i, "file_name": f"{i}.jpg"} for i in (5, 6, 7)]
    (built,) = build_report_queries([query], gallery, search, final, truth)
    first, second = built.entries
    assert (first.file_name, first.is_relevant, first.probability) == ("6.jpg", True, 1.0)
    assert (first.iou_before, first.iou_after, first.improvement) == (0.5, 1.0, 0.5)
    assert (second.is_relevant, second.final_box, second.improvement) == (False, None, None)
    (untold,) = build_report_queries([query], gallery, search, final)
    assert [entry.is_relevant for entry in untold.entries] == [None, None]
    masks = {(1, 7): np.ones((10, 10), bool), (2, 6): np.zeros((10, 10), bool)}
    (tinted,) = build_report_queries([query], gallery, search, final, masks=masks)
    assert [entry.mask is masks[1, 7] for entry in tinted.entries] == [False, True]
    assert tinted.entries[0].mask is None
