"""Results as files that other programs read."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from spil_d2.engine import export
from spil_d2.structures import SearchHit

HITS = [
    SearchHit(1, 'a, "b"/写真.jpg', 7, (1.0, 2.0, 31.126, 42.0), 0.9, 0.5),
    SearchHit(2, "c.png", 3, (0.0, 0.0, 5.0, 6.0), 0.25, -0.1),
]


def test_json_is_exactly_the_promised_list() -> None:
    assert json.loads(export.to_json(HITS)) == [
        {
            "image": 'a, "b"/写真.jpg',
            "box": [1.0, 2.0, 31.13, 42.0],
            "score": 0.9,
            "similarity": 0.5,
            "rank": 1,
        },
        {"image": "c.png", "box": [0, 0, 5, 6], "score": 0.25, "similarity": -0.1, "rank": 2},
    ]


def test_csv_keeps_commas_and_quotes_of_names() -> None:
    rows = list(csv.DictReader(io.StringIO(export.to_csv(HITS))))
    assert [row["image"] for row in rows] == [hit.image for hit in HITS]
    assert [float(rows[0][name]) for name in ("x0", "y0", "x1", "y1")] == [1, 2, 31.13, 42]


def test_coco_has_sizes_boxes_and_masks() -> None:
    mask = {"size": [60, 50], "counts": "abc"}
    hits = [replace(HITS[0], mask=mask), HITS[1]]
    content = json.loads(export.to_coco(hits, {7: (50, 60), 3: (5, 6)}.__getitem__))
    assert content["images"][0] == {
        "id": 7,
        "file_name": 'a, "b"/写真.jpg',
        "width": 50,
        "height": 60,
    }
    first, second = content["annotations"]
    assert first["bbox"] == [1, 2, 30.13, 40] and first["segmentation"] == mask
    assert "segmentation" not in second and second["image_id"] == 3 and second["score"] == 0.25
    assert {one["category_id"] for one in (first, second)} == {content["categories"][0]["id"]}


def test_the_page_holds_all_pictures(searcher, demo_queries) -> None:
    one = demo_queries[0].primary
    query = searcher.query_image(one.file_name, [one.box])
    hits = searcher.search([query], 3)
    page = export.to_html(searcher, [query], [replace(hits[0], image="<b>.jpg"), *hits[1:]])
    assert page.count("data:image/jpeg;base64,") == 4
    assert "&lt;b&gt;.jpg" in page and "<b>" not in page and "http" not in page


def test_fiftyone_is_asked_for_when_it_is_not_there(searcher, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ImportError, match="pip install fiftyone"):
        export.to_fiftyone(searcher, HITS, "cups")


def test_fiftyone_gets_relative_boxes(searcher, monkeypatch) -> None:
    samples = []

    class Dataset(SimpleNamespace):
        def add_samples(self, found):
            samples.extend(found)

    stand_in = SimpleNamespace(
        Dataset=lambda name, persistent: Dataset(name=name, persistent=persistent),
        Sample=SimpleNamespace,
        Detection=SimpleNamespace,
        Detections=SimpleNamespace,
    )
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)
    image_id, path = searcher.images()[0]
    width, height = searcher.image_size(image_id)
    hit = SearchHit(1, path, image_id, (width / 4, height / 2, width / 2, height), 0.9, 0.5)
    assert export.to_fiftyone(searcher, [hit], "cups").name == "cups"
    np.testing.assert_allclose(
        samples[0].instance.detections[0].bounding_box, [0.25, 0.5, 0.25, 0.5]
    )
    assert samples[0].filepath == str(searcher.image_path(image_id))
