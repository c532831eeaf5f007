"""Loading and registration of instance-search folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

import spil_d2.data  # noqa: F401  (registers the built-in data sets)
from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.instance_search import (
    check_dataset,
    get_queries,
    load_gallery,
    load_queries,
    register_all_instance_search,
    register_instance_search,
)
from spil_d2.structures.query import Query
from spil_d2.utils.shared import find_shared

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 20, 10


def write_folder(root: Path, annotations: list[dict], queries: list[dict]) -> Path:
    """Two gallery pictures and one external picture of 20x10 pixels."""
    (root / "images" / "sub").mkdir(parents=True)
    (root / "queries").mkdir()
    for name in ("images/a.png", "images/sub/b.png", "queries/q.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (9, 99, 199)).save(root / name)
    size = {"width": WIDTH, "height": HEIGHT}
    content = {
        "images": [
            {"id": 4, "file_name": "a.png", **size},
            {"id": 9, "file_name": "sub/b.png", **size},
        ],
        "annotations": annotations,
    }
    (root / "annotations.json").write_text(json.dumps(content))
    (root / "queries.json").write_text(json.dumps(queries))
    return root


def annotation(**changes) -> dict:
    return {"id": 1, "image_id": 4, "instance_id": 5, "bbox": [2, 3, 8, 4], **changes}


def query(**changes) -> dict:
    base = {"id": 1, "file_name": "queries/q.png", "width": WIDTH, "height": HEIGHT}
    return {**base, "image_id": None, "instance_id": 5, "bbox": [1, 1, 5, 6], **changes}


@pytest.fixture
def names():
    """Names to register in a test; they are forgotten afterwards."""
    used = ["ins_test_one", "ins_test_two"]
    yield used
    for name in used:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


def test_gallery_is_in_detectron2_form(tmp_path):
    root = write_folder(tmp_path / "set", [annotation()], [])
    first, second = load_gallery(root, "ins_x")
    assert first == {
        "file_name": str(root / "images" / "a.png"),
        "image_id": 4,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": [
            {
                "bbox": [2.0, 3.0, 8.0, 4.0],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "instance_id": 5,
                "iscrowd": 0,
            }
        ],
    }
    assert second["file_name"] == str(root / "images" / "sub" / "b.png")
    assert second["annotations"] == []


@pytest.mark.parametrize(
    "bbox, expected",
    [
        ([-0.5, 0, 10, 10], [0, 0, 9.5, 10]),
        ([0, -0.25, 20.5, 10.5], [0, 0, 20, 10]),
        ([19.75, 2, 0.5, 3], [19.75, 2, 0.25, 3]),
    ],
)
def test_boxes_up_to_half_a_pixel_outside_are_clipped(tmp_path, bbox, expected):
    root = write_folder(tmp_path / "set", [annotation(bbox=bbox)], [query(bbox=bbox)])
    assert load_gallery(root, "x")[0]["annotations"][0]["bbox"] == expected
    x, y, w, h = expected
    assert load_queries(root)[0].primary.box == (x, y, x + w, y + h)


def test_segmentations_are_kept_and_uncompressed_rle_is_compressed(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:7, 2:10] = 1
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes.tolist(), flat.size]).tolist()
    polygon = [[2, 3, 10, 3, 10, 7]]
    root = write_folder(
        tmp_path / "set",
        [
            annotation(segmentation={"size": [HEIGHT, WIDTH], "counts": counts}),
            annotation(id=2, segmentation=polygon),
        ],
        [],
    )
    rle, kept = (a["segmentation"] for a in load_gallery(root, "x")[0]["annotations"])
    assert (mask_util.decode(rle) == mask).all()
    assert kept == polygon


def test_queries_with_references_and_without_identity(tmp_path):
    extra = {"file_name": "images/a.png", "width": WIDTH, "height": HEIGHT, "image_id": 4}
    root = write_folder(
        tmp_path / "set",
        [],
        [
            query(references=[{**extra, "bbox": [2, 3, 8, 4]}]),
            query(id=2, instance_id=None),
        ],
    )
    one, two = load_queries(root)
    assert isinstance(one, Query)
    assert [r.file_name for r in one.references] == [
        str(root / "queries/q.png"),
        str(root / "images/a.png"),
    ]
    assert one.references[1].box == (2, 3, 10, 7)
    assert one.own_image_ids == {4}
    assert (one.instance_id, two.instance_id) == (5, None)
    assert two.own_image_ids == frozenset()


def test_a_gallery_may_have_no_annotations_at_all(tmp_path):
    root = write_folder(tmp_path / "set", [], [])
    content = json.loads((root / "annotations.json").read_text())
    del content["annotations"]
    (root / "annotations.json").write_text(json.dumps(content))
    assert [d["annotations"] for d in load_gallery(root, "x")] == [[], []]
    assert load_queries(root) == []


@pytest.mark.parametrize("load", [lambda r: load_gallery(r, "x"), load_queries])
def test_loading_stops_at_a_problem_and_names_file_and_record(tmp_path, load):
    root = write_folder(tmp_path / "set", [annotation(bbox=[0, 0, 0, 4])], [])
    with pytest.raises(DatasetError, match=r"annotations\.json: annotations\[0\] \(id 1\)"):
        load(root)


def test_loading_does_not_decode_pictures(tmp_path):
    root = write_folder(tmp_path / "set", [annotation()], [query()])
    (root / "images" / "a.png").write_bytes(b"no picture")
    assert len(load_gallery(root, "x")) == 2
    assert len(load_queries(root)) == 1


def test_registration_is_lazy_and_idempotent(tmp_path, names):
    root = tmp_path / "set"
    register_instance_search(names[0], root)
    register_instance_search(names[0], str(root))
    write_folder(root, [annotation()], [query()])
    assert len(DatasetCatalog.get(names[0])) == 2
    assert [q.id for q in get_queries(names[0])] == [1]
    metadata = MetadataCatalog.get(names[0])
    assert metadata.evaluator_type == "instance_search"
    assert metadata.thing_classes == ["object"]
    assert metadata.image_root == str(root / "images")
    assert metadata.queries_root == str(root)


def test_a_name_for_two_folders_is_an_error_naming_both(tmp_path, names):
    register_instance_search(names[0], tmp_path / "one")
    with pytest.raises(ValueError) as error:
        register_instance_search(names[0], tmp_path / "two")
    assert str(tmp_path / "one") in str(error.value)
    assert str(tmp_path / "two") in str(error.value)


def test_register_all_takes_whole_folders_only_and_can_run_twice(tmp_path, names):
    write_folder(tmp_path / "test_one", [], [])
    write_folder(tmp_path / ".tmp-test_two", [], [])
    (tmp_path / "test_two").mkdir()
    (tmp_path / "test_two" / "annotations.json").write_text("{")
    for _ in range(2):
        assert register_all_instance_search(tmp_path) == [names[0]]
    assert register_all_instance_search(tmp_path / "absent") == []


def test_register_all_can_keep_taken_names(tmp_path, names):
    register_instance_search(names[0], tmp_path / "elsewhere")
    write_folder(tmp_path / "here" / "test_one", [], [])
    assert register_all_instance_search(tmp_path / "here", keep_taken=True) == []
    with pytest.raises(ValueError, match="elsewhere"):
        register_all_instance_search(tmp_path / "here")


def test_an_unknown_name_lists_the_available_ones(tmp_path, names):
    register_instance_search(names[0], tmp_path)
    with pytest.raises(KeyError, match="ins_nowhere.*ins_test_one"):
        get_queries("ins_nowhere")


def test_import_registers_the_users_folders_before_the_shared_ones(tmp_path):
    mine = write_folder(tmp_path / "mine" / "ins" / "same", [], [])
    write_folder(tmp_path / "shared" / "data" / "same", [], [])
    write_folder(tmp_path / "shared" / "data" / "other", [], [])
    broken = tmp_path / "mine" / "ins" / "broken"
    broken.mkdir()
    for name in ("annotations.json", "queries.json"):
        (broken / name).write_text("{not json")
    code = (
        "import os, importlib, spil_d2.data.datasets.builtin as b\n"
        "os.environ['SPIL_D2_SHARED'] = os.devnull\n"
        "importlib.reload(b)\n"
        "from detectron2.data import DatasetCatalog as D, MetadataCatalog as M\n"
        "print(sorted(n for n in D.list() if n.startswith('ins_')))\n"
        "print(M.get('ins_same').queries_root)\n"
    )
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(tmp_path / "mine"),
        "SPIL_D2_SHARED": str(tmp_path / "shared"),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = ["ins_broken", "ins_other", "ins_same"]
    assert done.stdout.splitlines() == [str(expected), str(mine)]


@pytest.mark.parametrize(
    "name, images, boxes, instances, queries, external",
    [("instre_dev", 983, 1028, 100, 212, 12), ("davis_dev", 240, 240, 25, 25, 0)],
)
def test_the_shared_sets_load_unchanged(name, images, boxes, instances, queries, external):
    shared = find_shared()
    if shared is None or not (shared / "data" / name).is_dir():
        pytest.skip(f"{name} is not there: set SPIL_D2_SHARED to the folder with data/{name}")
    root = shared / "data" / name
    gallery = load_gallery(root, name)
    annotations = [a for d in gallery for a in d["annotations"]]
    assert (len(gallery), len(annotations)) == (images, boxes)
    assert len({a["instance_id"] for a in annotations}) == instances
    loaded = load_queries(root)
    assert len(loaded) == queries
    assert sum(not q.own_image_ids for q in loaded) == external
    assert check_dataset(root, decode=False) == []
