"""Every input that was once answered by a traceback, a crash, a hang or gigabytes."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from spil_d2.utils import picture_files

from .codecs import nested_mat
from .formats import FORMATS

DEEP = "[" * 100_000
Edit = Callable[[Path], object]


def put(name: str, content: str | bytes) -> Edit:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def change(name: str, place: str, value: Any) -> Edit:
    """Set what a dotted place of a JSON file names."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        *path, last = [int(one) if one.isdigit() else one for one in place.split(".")]
        holder = content
        for one in path:
            holder = holder[one]
        holder[last] = value
        (folder / name).write_text(json.dumps(content))

    return edit


def change_array(name: str, array: str, value: np.ndarray) -> Edit:
    def edit(folder: Path) -> None:
        with np.load(folder / name) as data:
            content = {**dict(data), array: value}
        np.savez(folder / name, **content)

    return edit


def save(name: str, content: object) -> Edit:
    return lambda folder: torch.save(content, folder / name)


def put_mat(name: str, **content: np.ndarray) -> Edit:
    return lambda folder: savemat(folder / name, content)


def ragged() -> np.ndarray:
    """A cell array of rows of other lengths."""
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.zeros((1, 3)), np.zeros((2, 2))
    return cells


def none() -> np.ndarray:
    return np.empty((0, 0), object)


def structs_of_none() -> np.ndarray:
    return np.zeros((1, 0), [("ok", object), ("bbx", object)])


def truncate(name: str, size: int) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:size])

    return edit


def damage_table(folder: Path) -> None:
    with sqlite3.connect(folder / "index" / "files.sqlite") as connection:
        connection.execute("DROP TABLE files")
    connection.close()


A, Q, P, H = "annotations.json", "queries.json", "p.json", "index/index.json"
SEGMENT = "index/segments/000001-a"
CASES: list[tuple[str, Edit, str]] = [
    ("annotations", put(A, DEEP), "whole file: cannot be read as JSON: it is nested"),
    ("annotations", change(A, "images.0.width", 10**400), r"images\[0\].*width is"),
    ("annotations", change(A, "images.0.height", 10**9), r"images\[0\].*at most 1000000"),
    ("annotations", change(A, "images.0.id", 2**63), r"images\[0\].*id is"),
    ("annotations", change(A, "annotations.0.bbox.2", 10**400), r"annotations\[0\].*four numbers"),
    ("annotations", change(A, "images.0.file_name", "x/" * 5000), r"images\[0\].*too long"),
    ("annotations", change(A, "images.0.file_name", "\ud800"), r"images\[0\].*characters"),
    ("annotations", change(A, "images.0.file_name", "a\0b"), r"images\[0\].*characters"),
    (
        "annotations",
        change(A, "annotations.0.segmentation", [[0, 0, 1e9, 0, 0, 1e9]]),
        r"annotations\[0\].*outside the picture",
    ),
    (
        "annotations",
        change(A, "annotations.1.segmentation.counts", "oooooooo"),
        r"annotations\[1\].*counts must be RLE",
    ),
    (
        "annotations",
        change(A, "annotations.2.segmentation.counts", [30, 70, 10**9]),
        r"annotations\[2\].*counts must be RLE",
    ),
    ("queries", change(Q, "0.image_id", [[1]]), r"queries\[0\].*image_id must be an integer"),
    ("shots", put(A, DEEP), "cannot be read as JSON: it is nested"),
    ("shots", change(A, "annotations.0.bbox.0", 10**400), r"annotations\[0\].*four numbers"),
    ("shots", change(A, "annotations.0.area", float("nan")), r"annotations\[0\].*area"),
    ("predictions_json", put(P, DEEP), "cannot be read as JSON"),
    ("predictions_json", change(P, "0.bbox.0", 10**400), "record 0: bbox must be four numbers"),
    ("predictions_json", change(P, "1.score", 10**400), "record 1: score must be a number"),
    ("query_file", put(Q, DEEP), "cannot be read as JSON"),
    ("query_file", change(Q, "0.box.0", float("nan")), "entry 0"),
    ("query_file", change(Q, "0.box.0", 10**400), "entry 0"),
    ("query_file", change(Q, "0.image", ["a"]), "entry 0"),
    ("instre", put("instre/gnd_instre.mat", nested_mat(20_000, "gnd")), "nested deeper than 32"),
    ("instre", put("instre/INSTRE-S1/01b_cup/001.txt", "1 1 nan 5"), r"001\.txt:1: .*not finite"),
    ("instre", put("instre/INSTRE-S1/01b_cup/001.txt", "1 1 1e999 5"), r"001\.txt:1: .*not finite"),
    ("instance_335", put("instance335/queries.txt", f"a>{'9' * 5000} 1 1 2 2"), "queries.txt:1"),
    (
        "instance_335",
        put("instance335/merge_bbox/Car24.txt", "Car24_0001 1 nan 5 5"),
        "Car24.txt:1",
    ),
    (
        "tracks",
        put("got/GOT-10k_Train_000001/cover.label", b"\xff\n8\n8\n"),
        "cover.label: the flags of a track cannot be read",
    ),
    ("tracks", put("got/GOT-10k_Train_000001/cover.label", "nan\n8\n8\n"), "cover.label: .*finite"),
    ("prw", put("query_info.txt", f"{'9' * 5000} 1 1 5 5 c1s1_000151"), "query_info.txt:1: IDs"),
    ("prw", put("query_info.txt", "479 nan 1 5 5 c1s1_000151"), "query_info.txt:1: .*not finite"),
    ("prw", put("frame_test.mat", b"\0" * 300), "frame_test.mat: cannot be read"),
    (
        "prw",
        put_mat("frame_test.mat", img_index_test=ragged()),
        "expected names of images, entry 1",
    ),
    ("prw", put_mat("annotations/c1s1_000151.jpg.mat", box_new=ragged()), "expected numbers"),
    ("cuhk_sysu", put_mat("annotation/pool.mat", pool=ragged()), "expected names of images"),
    ("cuhk_sysu", put_mat("annotation/Images.mat", Img=ragged()), "expected a struct array"),
    (
        "instre",
        put_mat("instre/gnd_instre.mat", imlist=none(), qimlist=none(), gnd=structs_of_none()),
        "qimlist: holds no query",
    ),
    ("ins_files", put("INS_PRW_gallery.txt", f"{'9' * 30} 1 1 2 2 c1a"), "gallery.txt:1: ID"),
    ("ins_files", put("INS_PRW_gallery.txt", "0 1 1 2 2 nowhere\n1 1 1 2 2 x"), "has no camera"),
    ("ins_files", put("local.txt", f"{'9' * 5000} c1s1_000001"), "local.txt:1: IDs must be"),
    ("ins_files", put("local.txt", f"0 {'x' * 9000}"), "local.txt:1: image"),
    ("rank_lists", change_array("lists.npz", "offsets", np.array([0, 9, 4])), "offsets must rise"),
    ("rank_lists", change_array("lists.npz", "query_ids", np.array([1, 1])), "two rank lists"),
    ("rank_lists", change_array("lists.npz", "boxes", np.full((4, 4), np.nan)), "not finite"),
    ("rank_lists", truncate("lists.npz", 30), "is not a readable file of rank lists"),
    ("clusters", change_array("clusters.npz", "labels", np.array([2**40])), "no cluster of number"),
    ("whitening", change_array("whitening.npz", "mean", np.zeros(4, object)), "mean is"),
    ("calibration", change_array("c.npz", "offsets", np.array([0, 9])), "offsets do not fit"),
    ("calibration", change_array("c.npz", "weights", np.array(3.0)), "weights is float64"),
    ("config", put("config.yaml", "_BASE_: config.yaml"), "config.yaml is its own _BASE_"),
    ("config", put("config.yaml", "X: !!python/name:os.system"), "config.yaml is no plain YAML"),
    ("config", put("config.yaml", '_BASE_: "\\ud800"'), "has the _BASE_ .*must be a path"),
    ("config", put("config.yaml", f"_BASE_: {'x/' * 2000}"), "has the _BASE_ .*must be a path"),
    ("config", put("config.yaml", "_BASE_: base.yaml\nSEED: '{[]: 1}'"), "does not fit"),
    ("config", put("dumped.yaml", "[1]"), "dumped.yaml is no configuration of an index"),
    ("index_exact", change(H, "segments.0.name", "../../x"), "index is not a readable region"),
    ("index_exact", change(H, "segments.0.deleted.0", 2**70), "index is not a readable region"),
    ("index_exact", change(H, "settings", {"nonsense": 1}), "index is not a readable region"),
    ("index_exact", change(H, "mean", [1.0]), "index is not a readable region"),
    ("index_exact", change(H, "mean.0", 10**400), "index is not a readable region"),
    ("index_exact", change(H, "dimension", 5), "index is not a readable region"),
    ("index_exact", truncate(f"{SEGMENT}/embeddings.npy", 200), "index is not a readable region"),
    ("index_faiss", change(H, "backend", "x"), "index is not a readable region"),
    ("index_faiss", change(H, "settings.probed", "x"), "index is not a readable region"),
    ("index_faiss", truncate(f"{SEGMENT}/vectors.faiss", 500), "vectors.faiss is damaged"),
    ("folder_index", damage_table, "files.sqlite is no readable table of files"),
    ("folder_index", change("index/manifest.json", "folder", 3), "names no folder of pictures"),
    ("checkpoint", save("model.pth", {"model": {"w": 3}}), "is no file of weights"),
    ("checkpoint", save("weights.pth", [1]), "holds a list"),
    (
        "globaltrack",
        save("epoch_12.pth", {"state_dict": {1: torch.ones(1)}}),
        "has no 'state_dict'",
    ),
    (
        "globaltrack",
        save("epoch_12.pth", {"state_dict": {"bbox_head.fc_reg.bias": torch.tensor(1.0)}}),
        "has the shape",
    ),
    ("zoo_pickle", put("zoo.pkl", b"\x80\x02}(r\xff\xff\xff\x7f."), "zoo.pkl"),
    ("zoo_pickle", put("caffe.pkl", pickle.dumps({"blobs": {}}, 2)), "holds no weights whose"),
    (
        "zoo_pickle",
        put("zoo.pkl", pickle.dumps({"model": 3, "__author__": ""})),
        "holds no weights",
    ),
    ("jpeg", put("plain.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no known"),
]


@pytest.mark.parametrize(("name", "edit", "message"), CASES)
def test_it_is_refused_by_name(tmp_path, name: str, edit: Edit, message: str) -> None:
    one = FORMATS[name]
    folder = tmp_path / "case"
    folder.mkdir()
    one.prepare(folder)
    edit(folder)
    with pytest.raises((ValueError, FileNotFoundError, _bad_parameter())) as caught:
        one.load(folder)
    text = str(caught.value)
    assert str(folder) in text and len(text) < 3000
    text.encode("utf-8")
    assert caught.match(message)


def _bad_parameter() -> type[Exception]:
    import typer

    return typer.BadParameter


def test_a_postscript_file_named_jpg_runs_nothing(tmp_path) -> None:
    """Detectron2 opens it with Pillow, which hands it to Ghostscript."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(picture_files.UnreadablePictureError, match=r"a\.jpg is not a readable"):
        picture_files.read_pixels(path, "RGB")
