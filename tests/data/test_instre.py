"""INSTRE on a tiny tree in the published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from scipy.io import savemat

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.instance_search import get_queries
from spil_d2.data.datasets.instre import load_instre, register_instre, resolve_box_format
from spil_d2.data.datasets.official import get_protocol_facts
from spil_d2.evaluation import dataset_protocol
from spil_d2.evaluation.ins_protocol import PRESETS

SIZE = (100, 80)
# Text files, x y w h; the last of each class is the query.
BOXES = {
    "INSTRE-S1/01a_canada_book/001.jpg": ["10 10 30 20"],
    "INSTRE-S1/01a_canada_book/002.jpg": ["20 10 30 25"],
    "INSTRE-S1/01a_canada_book/003.jpg": ["40 30 20 20"],
    "INSTRE-S1/01b_cup/001.jpg": ["5 5 10 10"],
    "INSTRE-S1/01b_cup/002.jpg": ["50 40 25 30"],
    "INSTRE-S2/07_bag/001.jpg": ["1 1 20 30"],
    "INSTRE-S2/07_bag/002.jpg": ["30 20 40 50"],
    "INSTRE-M/01/001.jpg": ["10 20 20 20", "60 50 20 30"],
    "INSTRE-M/01/002.jpg": ["50 10 10 10", "20 40 20 20"],
    "INSTRE-M/01/003.jpg": ["15 15 10 30", "40 30 30 20"],
}
QUERIES = [
    "INSTRE-S1/01a_canada_book/003.jpg",
    "INSTRE-S1/01b_cup/002.jpg",
    "INSTRE-S2/07_bag/002.jpg",
    "INSTRE-M/01/003.jpg",
]
GALLERY = [name for name in BOXES if name not in QUERIES]
PAIRS = [name for name in GALLERY if name.startswith("INSTRE-M")]
# Objects of a pair are also found alone and together.
POSITIVES = [GALLERY[:2] + PAIRS, GALLERY[2:3] + PAIRS, GALLERY[3:4], PAIRS]
# x y w h of the query boxes: that of INSTRE-M encloses both objects.
XYWH = [[40, 30, 20, 20], [50, 40, 25, 30], [30, 20, 40, 50], [15, 15, 55, 35]]


def make_instre(
    root: Path,
    box_format: str = "xywh",
    boxes: list[list[int]] = XYWH,
    extra_query: str | None = None,
) -> Path:
    """The tree; `extra_query` is a bag whose positives are the other bag and a pair."""
    folder = root / "instre"
    pictures, queries, positives = dict(BOXES), list(QUERIES), list(POSITIVES)
    if extra_query is not None:
        pictures[extra_query] = ["3 3 20 20"]
        queries.append(extra_query)
        positives.append(GALLERY[3:5])
    for name, lines in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (90, 120, 60)).save(path)
        path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    gnd = np.zeros((1, len(queries)), [("ok", object), ("bbx", object)])
    for i, (names, (x, y, w, h)) in enumerate(zip(positives, boxes, strict=True)):
        box = [x, y, w, h] if box_format == "xywh" else [x, y, x + w, y + h]
        gnd[0, i]["ok"] = np.array([[GALLERY.index(name) + 1 for name in names]], np.uint16)
        gnd[0, i]["bbx"] = np.array([box], np.uint16)
    content = {"qimlist": row(queries), "imlist": row(GALLERY), "gnd": gnd}
    savemat(folder / "gnd_instre.mat", content)
    return folder


def row(items: list[str]) -> np.ndarray:
    """A MATLAB cell array (1, N)."""
    array = np.empty((1, len(items)), object)
    array.ravel()[:] = items
    return array


@pytest.mark.parametrize("box_format", ["xywh", "xyxy"])
def test_both_readings_of_the_boxes_give_the_same_dataset(tmp_path, box_format: str) -> None:
    loaded = load_instre(make_instre(tmp_path, box_format))
    corners = [(x, y, x + w, y + h) for x, y, w, h in XYWH]
    assert [query.primary.box for query in loaded.queries] == corners
    # The queries' pictures are not in the gallery.
    assert [query.own_image_ids for query in loaded.queries] == [frozenset()] * 4
    # M/01, S1/01a, S1/01b, S2/07 in alphabetical order.
    assert [query.instance_id for query in loaded.queries] == [2, 3, 4, 1]
    assert [len(record["annotations"]) for record in loaded.dicts] == [1, 1, 1, 1, 3, 3]
    pair = {one["instance_id"]: one["bbox"] for one in loaded.dicts[4]["annotations"]}
    # Lines 1 and 2 of the picture, and the box around both.
    assert pair == {2: [10, 20, 20, 20], 3: [60, 50, 20, 30], 1: [10, 20, 70, 60]}


def test_the_positives_are_those_of_the_mat_file(tmp_path) -> None:
    make_instre(tmp_path)
    before = set(DatasetCatalog.list())
    try:
        for _ in range(2):
            assert register_instre(tmp_path) == ["ins_instre"]
        dicts, queries = DatasetCatalog.get("ins_instre"), get_queries("ins_instre")
        facts = get_protocol_facts("ins_instre")
    finally:
        for name in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    protocol = dataset_protocol(PRESETS["ins"], dicts, queries, **facts.arguments(dicts, "global"))
    found = [
        sorted(protocol.image_names[i] + ".jpg" for i in query.gt_images)
        for query in protocol.queries
    ]
    assert found == [sorted(names) for names in POSITIVES]
    assert register_instre(tmp_path / "absent") == []


def test_queries_of_a_class_with_other_positives_are_another_instance(tmp_path, caplog) -> None:
    extra = "INSTRE-S2/07_bag/009.jpg"
    folder = make_instre(tmp_path, boxes=[*XYWH, [3, 3, 20, 20]], extra_query=extra)
    # A bag on a picture of a pair: its name does not say which object it is.
    with pytest.raises(DatasetError, match=r"INSTRE-M/01/001\.txt: is a positive of INSTRE-S2"):
        load_instre(folder)
    assert "4 classes make 5 instances" in caplog.text


def test_the_format_of_the_boxes_is_told_by_more_than_95_percent() -> None:
    rng = np.random.default_rng(0)
    xywh = rng.uniform(20, 60, (100, 4))
    own = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    assert resolve_box_format(xywh, own, "gnd") == "xywh"
    assert resolve_box_format(own, own, "gnd") == "xyxy"
    mixed = np.where(np.arange(100)[:, None] < 96, xywh, own)
    assert resolve_box_format(mixed, own, "gnd") == "xywh"
    mixed = np.where(np.arange(100)[:, None] < 90, xywh, own)
    with pytest.raises(DatasetError, match=r"gnd: .*cannot be told.*xyxy 10\.0 %, xywh 90\.0 %"):
        resolve_box_format(mixed, own, "gnd")
    # From the corner on, both readings are the same.
    corner = np.array([[0, 0, 20, 30.0]])
    with pytest.raises(DatasetError, match=r"100\.0 %.*100\.0 %"):
        resolve_box_format(corner, corner, "gnd")


def test_the_user_decides_where_it_cannot_be_told(tmp_path) -> None:
    folder = make_instre(tmp_path, boxes=[[1, 1, 9, 9], [1, 1, 9, 9], *XYWH[2:]])
    with pytest.raises(DatasetError, match=r"gnd_instre\.mat.*box_format"):
        load_instre(folder)
    assert load_instre(folder, "xyxy").queries[0].primary.box == (1, 1, 9, 9)
    with pytest.raises(ValueError, match="cxcywh"):
        load_instre(folder, "cxcywh")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("INSTRE-S2/07_bag/001.txt", "1 1 20\n", r"001\.txt:1: 3 fields, expected: x y w h"),
        ("INSTRE-S2/07_bag/001.txt", "1 1 a 3\n", r"001\.txt:1: not a number"),
        ("INSTRE-S2/07_bag/001.txt", "", r"001\.txt: holds no box"),
        ("INSTRE-S2/07_bag/001.txt", "200 1 20 20\n", r"001\.txt: box .* has no area"),
        ("INSTRE-M/01/001.txt", "1 1 20 20\n", r"001\.txt: 1 boxes, a picture of INSTRE-M has 2"),
        ("gnd_instre.mat", "nonsense", r"gnd_instre\.mat: cannot be read"),
    ],
)
def test_errors_name_file_and_line(tmp_path, file: str, text: str, message: str) -> None:
    folder = make_instre(tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_instre(folder)


def test_a_mat_file_of_something_else(tmp_path) -> None:
    folder = make_instre(tmp_path)
    savemat(folder / "gnd_instre.mat", {"imlist": row(GALLERY)})
    with pytest.raises(DatasetError, match="holds .*imlist.*not .*gnd"):
        load_instre(folder)


def test_a_missing_picture_is_named(tmp_path) -> None:
    folder = make_instre(tmp_path)
    (folder / GALLERY[0]).unlink()
    with pytest.raises(DatasetError, match=r"01a_canada_book/001\.jpg: the picture is missing"):
        load_instre(folder)
