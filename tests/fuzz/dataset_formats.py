"""Annotations, queries, galleries and predictions."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from scipy.io import loadmat

from spil_d2.cli.options import read_query_file
from spil_d2.data.datasets.few_shot_coco import load_coco
from spil_d2.data.datasets.few_shot_shots import sample_shots
from spil_d2.data.datasets.ins_sot import FrameFilter, find_tracks, select_frames
from spil_d2.data.datasets.instance_335 import load_instance_335
from spil_d2.data.datasets.instance_search import check_dataset, load_gallery, load_queries
from spil_d2.data.datasets.instre import load_instre
from spil_d2.data.datasets.person_search_annotations import read_cuhk_sysu
from spil_d2.engine.few_shot.own_shots import read_shots
from spil_d2.evaluation.ins_evaluator import read_subset
from spil_d2.evaluation.ins_predictions import read_predictions
from spil_d2.evaluation.ins_protocol import PRESETS, QueryTruth, build_protocol
from spil_d2.evaluation.protocol_sources import read_protocol

from ..data.test_instance_335 import make_tree
from ..data.test_instre import make_instre
from ..data.test_person_search_annotations import make_cuhk_sysu, make_prw
from ..end_to_end.test_prepare_ins_sot import make_got, make_lasot
from ..evaluation.test_ins_predictions import RECORDS, npz_arrays
from .base import Format
from .codecs import Change, change_json, change_npz, change_text, mat_change

_SIZE = (20, 10)
_LINE = r":\d+"
_ENTRY = r"\w+\[\d+\]"
_CELL = r"\w+\(\d+\)|image|query"


def _annotations(folder: Path) -> None:
    (folder / "images" / "sub").mkdir(parents=True)
    for name in ("images/a.png", "images/sub/b.png", "q.png"):
        Image.new("RGB", _SIZE, (9, 99, 199)).save(folder / name)
    size = {"width": _SIZE[0], "height": _SIZE[1]}
    mask = np.zeros(_SIZE[::-1], np.uint8, order="F")
    mask[2:6, 3:9] = 1
    packed = mask_util.encode(mask)
    rle = {"size": [10, 20], "counts": packed["counts"].decode()}
    runs = {"size": [10, 20], "counts": [30, 70, 100]}
    shown = {"image_id": 4, "instance_id": 5, "bbox": [2, 3, 8, 4.5]}
    content = {
        "images": [
            {"id": 4, "file_name": "a.png", **size},
            {"id": 9, "file_name": "sub/b.png", **size},
        ],
        "annotations": [
            {"id": 1, **shown, "segmentation": [[2, 3, 8, 3, 8, 6]], "iscrowd": 0},
            {"id": 2, **shown, "segmentation": rle},
            {"id": 3, **shown, "segmentation": runs, "iscrowd": 1},
            {"id": 4, "image_id": 9, "instance_id": 6, "bbox": [0, 0, 20, 10]},
        ],
        "instances": [{"id": 5, "name": "cup"}, {"id": 6, "name": "é"}],
    }
    queries = [
        {"id": 1, "file_name": "q.png", **size, "image_id": None, "instance_id": 5}
        | {"bbox": [1, 1, 5, 6]},
        {"id": 2, "file_name": "images/a.png", **size, "image_id": 4, "instance_id": None}
        | {"bbox": [1, 1, 5, 6]}
        | {"references": [{"file_name": "q.png", **size, "image_id": None, "bbox": [0, 0, 9, 9]}]},
    ]
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "queries.json").write_text(json.dumps(queries))


def _load_annotations(folder: Path) -> None:
    check_dataset(folder, decode=False)
    dicts = load_gallery(folder, "fuzz")
    for record in dicts:
        for one in record["annotations"]:
            if "segmentation" in one:
                _decode(one["segmentation"], record["height"], record["width"])
    load_queries(folder)
    read_protocol("ins", folder)


def _decode(segmentation: Any, height: int, width: int) -> None:
    if isinstance(segmentation, dict):
        mask_util.decode(segmentation)
    elif width * height <= 1_000_000:
        mask_util.decode(mask_util.frPyObjects(segmentation, height, width))


def _variables(make: Callable[[Path], Path], name: str) -> Change:
    """The change of the MATLAB file `name` in the tree that `make` makes."""

    @functools.cache
    def read() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as place:
            content = loadmat(make(Path(place)) / name)
        return {key: value for key, value in content.items() if not key.startswith("__")}

    return mat_change(read)


def _got_and_lasot(folder: Path) -> None:
    make_got(folder / "got", "GOT-10k_Train_000001", count=3)
    make_lasot(folder / "lasot", ["10,10,30,30", "12,10,30,30", "14,10,30,30"], hidden=[0, 0, 1])


def _load_tracks(folder: Path) -> None:
    for track in find_tracks(folder):
        select_frames(track, 5, FrameFilter())


def _cells(*names: str) -> np.ndarray:
    array = np.empty((len(names), 1), object)
    array.ravel()[:] = names
    return array


def _prw_frame() -> dict[str, Any]:
    return {"box_new": np.array([[479, 10, 20, 30.5, 60], [-2, 5, 5, 10, 20]])}


def _prw_list() -> dict[str, Any]:
    names = ("c1s1_000151", "c1s1_000176", "c2s1_000001", "c3s1_000001")
    return {"img_index_test": _cells(*names)}


def _load_cuhk(folder: Path) -> None:
    read_protocol("cuhk_sysu", folder)
    read_cuhk_sysu(folder, "train")


_INS_GALLERY = """\
0 10 20 30 40 c1s1_000001
0 5 5 25 49 c2s1_000002.jpg
1 30 10 60 40 c1s1_000004
1 2 2 30 30 c3s1_000005
"""
_INS_QUERY = "0 10 20 30 40 c1s1_000001\n1 2 2 30 30 c3s1_000005\n"


def _ins_files(folder: Path) -> None:
    for name in ("INS_PRW", "INS_CUHK_SYSU"):
        (folder / f"{name}_gallery.txt").write_text(_INS_GALLERY)
        (folder / f"{name}_query.txt").write_text(_INS_QUERY)
    local = "0 c1s1_000001 c2s1_000002\n1 2 2 30 30 c1s1_000004.jpg\n1 c1s1_000004\n"
    (folder / "local.txt").write_text(local)
    (folder / "ids.txt").write_text("0 # persons\n1_0\n")


def _load_ins_files(folder: Path) -> None:
    protocol = read_protocol("ins_prw", folder)
    read_subset(folder / "ids.txt", protocol)
    read_protocol("ins_cuhk_sysu", folder)
    read_protocol("ins_cuhk_sysu", folder, folder / "local.txt")


def _coco(folder: Path) -> None:
    for i in (1, 2):
        Image.new("RGB", (50, 50)).save(folder / f"{i}.jpg")
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 50, "height": 50, "licence": 3} for i in (1, 2)
    ]
    annotations = [
        {"id": i, "image_id": 1 + i % 2, "category_id": 1 + i // 3, "bbox": [1, 2, 30, 40.5]}
        | {"area": 9.0, "iscrowd": 0, "segmentation": [[1, 1, 2, 2, 3, 1]]}
        for i in range(1, 6)
    ]
    categories = [{"id": 1, "name": "pen"}, {"id": 2, "name": "cup"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def _load_shots(folder: Path) -> None:
    load_coco.cache_clear()
    read_shots(folder)
    coco = load_coco((folder / "annotations.json").absolute())
    for category_id in coco.names:
        sample_shots(coco, category_id, (1, 2), 0, allow_fewer=True)


def _protocol() -> Any:
    box = (0.0, 0.0, 50.0, 50.0)
    truths = [QueryTruth(f"{i}_0", i, ("c1a",), 50.0, (("c2b", box),)) for i in range(2)]
    return build_protocol(PRESETS["ins_prw"], {"c1a": 0, "c2b": 1, "c3c": 2}, truths)


_PROTOCOL = _protocol()


def _predictions_json(folder: Path) -> None:
    (folder / "p.json").write_text(json.dumps(RECORDS))


def _predictions_npz(folder: Path) -> None:
    np.savez(folder / "p.npz", **npz_arrays(RECORDS))


def _query_file(folder: Path) -> None:
    one = {"image": "a.jpg", "box": [1, 2, 3.5, 4]}
    (folder / "queries.json").write_text(json.dumps([one, [one, one]]))


DATASETS = (
    Format(
        "annotations",
        _annotations,
        {"annotations.json": change_json},
        _load_annotations,
        _ENTRY + "|image|quer",
    ),
    Format("queries", _annotations, {"queries.json": change_json}, _load_annotations, _ENTRY),
    Format(
        "instre",
        make_instre,
        {
            "instre/gnd_instre.mat": _variables(make_instre, "gnd_instre.mat"),
            "instre/INSTRE-S1/01b_cup/001.txt": change_text,
            "instre/INSTRE-M/01/001.txt": change_text,
        },
        lambda folder: load_instre(folder / "instre"),
        f"{_LINE}|{_CELL}|box|list|gnd",
    ),
    Format(
        "instance_335",
        make_tree,
        {
            "instance335/merge_bbox/Car24.txt": change_text,
            "instance335/queries.txt": change_text,
        },
        lambda folder: load_instance_335(folder / "instance335"),
        _LINE,
    ),
    Format(
        "tracks",
        _got_and_lasot,
        {
            "got/GOT-10k_Train_000001/groundtruth.txt": change_text,
            "got/GOT-10k_Train_000001/cover.label": change_text,
            "lasot/airplane/airplane-1/groundtruth.txt": change_text,
            "lasot/airplane/airplane-1/full_occlusion.txt": change_text,
        },
        _load_tracks,
    ),
    Format(
        "prw",
        make_prw,
        {
            "frame_test.mat": mat_change(_prw_list),
            "annotations/c1s1_000151.jpg.mat": mat_change(_prw_frame),
            "query_info.txt": change_text,
        },
        lambda folder: read_protocol("prw", folder),
        f"{_LINE}|{_CELL}|entry|box_new|rows",
    ),
    Format(
        "cuhk_sysu",
        make_cuhk_sysu,
        {
            f"annotation/{path}": _variables(make_cuhk_sysu, f"annotation/{path}")
            for path in ("Images.mat", "pool.mat", "Person.mat", "test/train_test/TestG100.mat")
        },
        _load_cuhk,
        f"{_CELL}|entry|struct",
    ),
    Format(
        "ins_files",
        _ins_files,
        {
            "INS_PRW_gallery.txt": change_text,
            "INS_PRW_query.txt": change_text,
            "INS_CUHK_SYSU_gallery.txt": change_text,
            "local.txt": change_text,
            "ids.txt": change_text,
        },
        _load_ins_files,
        f"{_LINE}|image|ID",
    ),
    Format("shots", _coco, {"annotations.json": change_json}, _load_shots, _ENTRY + "|id |class"),
    Format(
        "predictions_json",
        _predictions_json,
        {"p.json": change_json},
        lambda folder: read_predictions(folder / "p.json", _PROTOCOL),
        r"record \d+",
    ),
    Format(
        "predictions_npz",
        _predictions_npz,
        {"p.npz": change_npz},
        lambda folder: read_predictions(folder / "p.npz", _PROTOCOL),
    ),
    Format(
        "query_file",
        _query_file,
        {"queries.json": change_json},
        lambda folder: read_query_file(folder / "queries.json"),
        r"entry \d+",
    ),
)
