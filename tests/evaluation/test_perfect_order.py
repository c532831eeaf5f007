"""Detections in the order of the truth: boxes and their order told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from spil_d2.evaluation.perfect_order import coco_ap, order_by_truth

from ..programs import load_tool

# Image 1 has two boxes of class 5 and one of class 6, image 2 one of class 6.
BOXES = [
    (1, 5, (0, 0, 10, 10)),
    (1, 5, (50, 0, 10, 10)),
    (1, 6, (0, 50, 20, 20)),
    (2, 6, (0, 0, 30, 30)),
]


@pytest.fixture
def annotations(tmp_path) -> Path:
    path = tmp_path / "truth.json"
    boxes = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": category,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (image_id, category, box) in enumerate(BOXES, start=1)
    ]
    images = [{"id": i, "width": 100, "height": 100} for i in (1, 2)]
    categories = [{"id": i, "name": str(i)} for i in (5, 6)]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def found(image_id: int, category: int, box, score: float) -> dict:
    return {"image_id": image_id, "category_id": category, "bbox": list(box), "score": score}


def test_scores_are_ious_with_the_nearest_box_of_the_class(annotations) -> None:
    detections = [
        found(1, 5, (50, 0, 10, 10), 0.1),
        # A third of the union of two boxes that share one half.
        found(1, 5, (5, 0, 10, 10), 0.9),
        # The place of class 5, and an image without the class.
        found(1, 6, (0, 0, 10, 10), 0.9),
        found(2, 5, (0, 0, 30, 30), 0.9),
    ]
    ordered = order_by_truth(COCO(str(annotations)), detections)
    assert [one["score"] for one in ordered] == pytest.approx([1, 1 / 3, 0, 0])
    assert [one["bbox"] for one in ordered] == [one["bbox"] for one in detections]
    assert detections[0]["score"] == 0.1


def test_the_tool_tells_what_the_order_costs(annotations, tmp_path, capsys) -> None:
    detections = tmp_path / "found.json"
    # Each true box is found, and below a wrong one that is surer.
    right = [found(image_id, category, box, 0.3) for image_id, category, box in BOXES]
    wrong = [found(image_id, category, (80, 80, 10, 10), 0.9) for image_id, category, _ in BOXES]
    detections.write_text(json.dumps([*right, *wrong]))
    arguments = ["--annotations", str(annotations), "--detections", str(detections)]
    table = load_tool("perfect_order").main(arguments)
    # Two right ones follow two wrong ones: the precision is 1 / 2 at best.
    assert table["as it is"]["AP50"] == pytest.approx(50, abs=0.1)
    assert table["by the truth"] == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    assert "| by the truth | 100.0 |" in capsys.readouterr().out


def test_a_box_that_is_missing_is_missing_in_any_order(annotations) -> None:
    truth = COCO(str(annotations))
    half = [found(image_id, category, box, 0.5) for image_id, category, box in BOXES[::2]]
    # One of two boxes of each class: recalls of up to .5 have precision 1, 51 of 101 points.
    assert coco_ap(truth, half, (5, 6))["AP"] == pytest.approx(100 * 51 / 101)
    assert coco_ap(truth, order_by_truth(truth, half), (5, 6))["AP"] == pytest.approx(5100 / 101)
    assert coco_ap(truth, [], (5, 6))["AP"] == 0


def test_files_that_say_nothing_are_refused(annotations, tmp_path, capsys) -> None:
    tool = load_tool("perfect_order")
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    for path, message in ((empty, "has no detections"), (tmp_path / "none.json", "no file")):
        with pytest.raises(SystemExit):
            tool.main(["--annotations", str(annotations), "--detections", str(path)])
        assert message in capsys.readouterr().err
