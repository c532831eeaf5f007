"""Instance-160, -251 and -335 on a tiny tree of the layout that published scripts read."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.instance_335 import load_instance_335, register_instance_335
from spil_d2.data.datasets.instance_search import get_queries
from spil_d2.data.datasets.official import get_protocol_facts
from spil_d2.evaluation import dataset_protocol
from spil_d2.evaluation.ins_protocol import PRESETS

SIZE = (80, 60)
FRAMES = ["Car24/Car24_0001", "Car24/Car24_0002", "Woman/Woman_0001", "Woman/Woman_0446"]
# The last box reaches outside.
BOXES = "Car24_0001 10 10 20 20\nCar24_0002 12 10 20 20\n"
MORE_BOXES = "Woman_0001 5 5 10 40\nWoman_0446 70 5 20 40\n"
QUERIES = """\
/lab/Instance-335/Images/Car24/Car24_0001.jpg>3 10 10 30 30
Images/Woman/Woman_0001.jpg>7 5 5 15 45
"""


def make_tree(root: Path, number: int = 335, boxes: str = "merge_bbox") -> Path:
    folder = root / f"instance{number}"
    for name in FRAMES:
        path = folder / "Images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (90, 120, 60)).save(path)
    (folder / boxes).mkdir()
    (folder / boxes / "Car24.txt").write_text(BOXES)
    (folder / boxes / "Woman.txt").write_text(MORE_BOXES)
    (folder / "queries.txt").write_text(QUERIES)
    return folder


@pytest.mark.parametrize("boxes", ["bbox", "merge_bbox"])
def test_a_video_is_an_instance(tmp_path, boxes: str) -> None:
    loaded = load_instance_335(make_tree(tmp_path, boxes=boxes))
    shown = [[(a["instance_id"], a["bbox"]) for a in one["annotations"]] for one in loaded.dicts]
    assert shown == [
        [(1, [10, 10, 20, 20])],
        [(1, [12, 10, 20, 20])],
        [(2, [5, 5, 10, 40])],
        [(2, [70, 5, 10, 40])],
    ]
    assert [(q.id, q.instance_id, q.primary.box) for q in loaded.queries] == [
        (3, 1, (10, 10, 30, 30)),
        (7, 2, (5, 5, 15, 45)),
    ]
    assert [q.own_image_ids for q in loaded.queries] == [frozenset({0}), frozenset({2})]


def test_registered_by_number(tmp_path) -> None:
    make_tree(tmp_path, 160, "bbox")
    make_tree(tmp_path, 335)
    before = set(DatasetCatalog.list())
    try:
        for _ in range(2):
            assert register_instance_335(tmp_path) == ["ins_instance160", "ins_instance335"]
        dicts, queries = DatasetCatalog.get("ins_instance160"), get_queries("ins_instance160")
        facts = get_protocol_facts("ins_instance160")
    finally:
        for name in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    protocol = dataset_protocol(PRESETS["ins"], dicts, queries, **facts.arguments(dicts, "global"))
    assert protocol.image_names == tuple(FRAMES)
    assert [query.gt_images.tolist() for query in protocol.queries] == [[1], [3]]
    assert register_instance_335(tmp_path / "absent") == []


def test_frames_without_a_box_are_distractors(tmp_path, caplog) -> None:
    folder = make_tree(tmp_path)
    (folder / "merge_bbox" / "Woman.txt").write_text("Woman_0001 5 5 10 40\n")
    assert load_instance_335(folder).dicts[3]["annotations"] == []
    assert "1 of 4 frames have no box" in caplog.text


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("merge_bbox/Car24.txt", "Car24_0009 1 1 2 2\n", r"Car24\.txt:1: there is no Images"),
        ("merge_bbox/Car24.txt", "Car24_0001 1 1 2\n", r"Car24\.txt:1: 3 fields"),
        ("merge_bbox/Car24.txt", "\nCar24_0001 99 1 2 2\n", r"Car24\.txt:2: .* no area"),
        ("merge_bbox/Car24.txt", BOXES + BOXES, r"Car24\.txt:3: frame Car24_0001 has a box"),
        ("queries.txt", "Car24_0001.jpg 3 1 1 2 2\n", r"queries\.txt:1: a line is PATH>ID"),
        ("queries.txt", "Car24_0009.jpg>3 1 1 2 2\n", r"queries\.txt:1: there is no Images"),
        ("queries.txt", QUERIES + QUERIES, r"queries\.txt:3: query 3 is there twice"),
        ("queries.txt", "Car24_0001.jpg>3 1 1 2\n", r"queries\.txt:1: 3 fields, expected: x1"),
        ("queries.txt", "", "holds no query"),
    ],
)
def test_errors_name_file_and_line(tmp_path, file: str, text: str, message: str) -> None:
    folder = make_tree(tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_instance_335(folder)


def test_errors_of_the_tree(tmp_path) -> None:
    folder = make_tree(tmp_path)
    (folder / "bbox").mkdir()
    with pytest.raises(DatasetError, match="one of the folders"):
        load_instance_335(folder)
    (folder / "bbox").rmdir()
    double = folder / "Images" / "Car25" / "Car24_0001.jpg"
    double.parent.mkdir()
    double.write_bytes((folder / "Images" / f"{FRAMES[0]}.jpg").read_bytes())
    with pytest.raises(DatasetError, match="Car25.*same name"):
        load_instance_335(folder)
