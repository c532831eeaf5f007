"""INS-SOT out of tiny trees in the layouts of LaSOT and GOT-10k."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.ins_sot import FrameFilter, Recipe, find_tracks
from spil_d2.data.datasets.instance_search import check_dataset, load_gallery, load_queries

from ..programs import ROOT

SIZE = (200, 100)


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "prepare_ins_sot", ROOT / "datasets" / "prepare_ins_sot.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", SIZE, (i * 9, 120, 60)).save(folder / f"{i + 1:08d}.jpg")


def make_lasot(root: Path, boxes: list[str], hidden: list[int] | None = None) -> None:
    folder = root / "airplane" / "airplane-1"
    save_frames(folder / "img", len(boxes))
    (folder / "groundtruth.txt").write_text("\n".join(boxes) + "\n")
    flags = hidden or [0] * len(boxes)
    (folder / "full_occlusion.txt").write_text(",".join(map(str, flags)) + "\n")
    (folder / "out_of_view.txt").write_text(",".join(["0"] * len(boxes)) + "\n")


def make_got(root: Path, name: str, count: int = 8, cover: list[int] | None = None) -> None:
    folder = root / name
    save_frames(folder, count)
    rows = [f"{10 + i}.0000,20.0000,30.5000,40.0000" for i in range(count)]
    (folder / "groundtruth.txt").write_text("\n".join(rows) + "\n")
    (folder / "absence.label").write_text("0\n" * count)
    values = cover or [8] * count
    (folder / "cover.label").write_text("".join(f"{value}\n" for value in values))


@pytest.fixture
def trees(tmp_path) -> list[Path]:
    boxes = ["10,10,30,30", "12,10,30,30", "0,0,0,0", "180,10,40,40", "14,10,30,30", "16,10,30,30"]
    make_lasot(tmp_path / "lasot", boxes, hidden=[0, 0, 1, 0, 1, 0])
    make_got(tmp_path / "got" / "train", "GOT-10k_Train_000001")
    # 2 is not above .3 * 8 = 2.4.
    make_got(tmp_path / "got" / "train", "GOT-10k_Train_000002", cover=[8, 2, 0, 3, 8, 8, 8, 8])
    make_got(tmp_path / "got" / "train", "GOT-10k_Train_000003", cover=[0] * 8)
    return [tmp_path / "lasot", tmp_path / "got"]


def test_tracks_become_a_sound_dataset(trees, tmp_path, program, capsys) -> None:
    out = tmp_path / "ins" / "sot"
    arguments = ["--root", *map(str, trees), "--out", str(out), "--frames", "4"]
    assert program.main(arguments) == 0
    assert str(out) in capsys.readouterr().out
    assert check_dataset(out) == []
    content = json.loads((out / "annotations.json").read_text())
    frames: dict[str, list[int]] = {}
    for image in content["images"]:
        name, frame = image["file_name"].split("/")
        frames.setdefault(name, []).append(int(Path(frame).stem))
    assert frames == {
        # Frame 3 is empty and hidden, 5 hidden; 4 reaches outside and is clipped.
        "airplane-1": [1, 2, 4, 6],
        # Four of eight, evenly: 0, 7/3, 14/3, 7 rounded.
        "GOT-10k_Train_000001": [1, 3, 6, 8],
        # Of 1, 4, 5, 6, 7, 8: 0, 5/3, 10/3, 5 rounded. 000003 is never seen.
        "GOT-10k_Train_000002": [1, 5, 6, 8],
    }
    clipped = next(
        one for one in content["images"] if one["file_name"] == "airplane-1/00000004.jpg"
    )
    assert content["annotations"][clipped["id"] - 1]["bbox"] == [180, 10, 20, 40]
    queries = load_queries(out)
    assert len(queries) == 3
    for query in queries:
        own = load_gallery(out, "sot")[min(query.own_image_ids) - 1]
        assert own["file_name"] == query.primary.file_name
        assert Path(own["file_name"]).stem == "00000001"
    source = trees[0] / "airplane" / "airplane-1" / "img" / "00000001.jpg"
    assert os.path.samefile(source, out / "images" / "airplane-1" / "00000001.jpg")


def test_a_second_run_keeps_what_is_there(trees, tmp_path, program) -> None:
    out = tmp_path / "sot"
    arguments = ["--root", *map(str, trees), "--out", str(out), "--copy"]
    program.main(arguments)
    picture = out / "images" / "airplane-1" / "00000001.jpg"
    assert not os.path.samefile(
        trees[0] / "airplane" / "airplane-1" / "img" / "00000001.jpg", picture
    )
    before = (out / "annotations.json").stat().st_mtime_ns
    program.main(arguments)
    assert (out / "annotations.json").stat().st_mtime_ns == before
    program.main([*arguments[:-1], "--copy", "--out", str(tmp_path / "again")])
    for name in ("annotations.json", "queries.json"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with pytest.raises(ValueError, match="other parameters"):
        program.main([*arguments, "--frames", "3"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not to be lost")
    with pytest.raises(FileExistsError):
        program.main([*arguments[:-2], str(tmp_path / "mine")])


def test_train_and_test_share_no_track_and_a_larger_tree_keeps_sides(tmp_path) -> None:
    folder = tmp_path / "got"
    for i in range(60):
        (folder / f"track{i:02d}").mkdir(parents=True)
        (folder / f"track{i:02d}" / "groundtruth.txt").write_text("1,1,20,20\n")
    tracks = find_tracks(folder)
    names = {
        split: [track.name for track in Recipe(split).order(tracks)]
        for split in ("train", "test", "all")
    }
    assert sorted(names["train"] + names["test"]) == sorted(names["all"])
    assert not set(names["train"]) & set(names["test"])
    # 335 of 586 are 57 %.
    assert 24 <= len(names["test"]) <= 44
    fewer = [track.name for track in Recipe("test").order(tracks[:30])]
    assert fewer == [name for name in names["test"] if name in {t.name for t in tracks[:30]}]
    assert names["all"] != [track.name for track in Recipe("all", seed=1).order(tracks)]


def test_the_filter_is_that_of_the_specification() -> None:
    """Each row of the rule, one step inside and one outside, on a picture of 200 x 100."""
    inside = [(5, 5, 10, 10), (0, 0, 150, 75), (0, 0, 10, 50), (0, 0, 74, 15), (190, 0, 20, 10)]
    outside = [
        (5, 5, 9, 10),
        (5, 5, 10, 9),
        (0, 0, 151, 75),
        (0, 0, 150, 76),
        (0, 0, 10, 51),
        (0, 0, 75, 15),
        (200, 0, 20, 10),
        (0, -10, 20, 10),
    ]
    boxes = np.array([*inside, *outside], np.float64)
    kept = FrameFilter().keeps(boxes, SIZE)
    assert kept.tolist() == [True] * len(inside) + [False] * len(outside)


def test_errors_name_the_file(trees, tmp_path, program) -> None:
    truth = trees[0] / "airplane" / "airplane-1" / "groundtruth.txt"
    arguments = ["--root", *map(str, trees), "--out", str(tmp_path / "sot")]
    truth.write_text(truth.read_text().replace("12,10,30,30", "12,10,x,30"))
    with pytest.raises(DatasetError, match=r"groundtruth\.txt:2: not a number"):
        program.main(arguments)
    assert not (tmp_path / "sot").exists()
    (truth.parent / "full_occlusion.txt").write_text("0,0\n")
    truth.write_text("10,10,30,30\n" * 6)
    with pytest.raises(DatasetError, match=r"full_occlusion\.txt: 2 numbers for 6 frames"):
        program.main(arguments)
    with pytest.raises(DatasetError, match="no folder below"):
        find_tracks(tmp_path / "got" / "nothing")
