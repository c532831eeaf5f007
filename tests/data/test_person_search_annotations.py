"""PRW and CUHK-SYSU, on tiny trees in their official MATLAB layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.ins_annotations import UNLABELLED
from spil_d2.data.datasets.person_search_annotations import read_cuhk_sysu, read_prw

from .matlab_arrays import cells, structs


def box(*xywh: int) -> np.ndarray:
    return np.array([xywh], np.uint8) if max(xywh, default=0) < 256 else np.array([xywh], np.uint16)


def place(image: str, *xywh: int, **more: object) -> dict:
    return {"imname": image, "idlocate": box(*xywh), "ishard": np.uint8([[0]]), **more}


def make_prw(root: Path) -> Path:
    """Six frames: four to test on, one of them empty; the two arrays' names of the real files."""
    (root / "annotations").mkdir(parents=True)
    frames = {
        "c1s1_000151": ("box_new", [[479, 10, 20, 30.5, 60], [-2, 5, 5, 10, 20]]),
        "c1s1_000176": ("box_new", [[479, 11, 21, 30, 60], [7, 100, 50, 20, 55]]),
        "c2s1_000001": ("anno_file", [[479, 1, 1, 30, 60], [8, 0, 0, 0, 10]]),
        "c3s1_000001": ("anno_previous", np.zeros((0, 5))),
        "c4s1_000001": ("box_new", [[932, 1, 1, 30, 60]]),
        "c4s1_000002": ("box_new", [[932, 2, 1, 30, 60]]),
    }
    for name, (variable, rows) in frames.items():
        savemat(root / "annotations" / f"{name}.jpg.mat", {variable: np.array(rows, np.float64)})
    names = list(frames)
    savemat(root / "frame_test.mat", {"img_index_test": cells(names[:4])})
    savemat(root / "frame_train.mat", {"img_index_train": cells(names[4:])})
    (root / "query_info.txt").write_text(
        "479 10 20 30.5 60 c1s1_000151\n479 1 1 30 60 c2s1_000001\n7 100 50 20 55 c1s1_000176\n"
    )
    return root


def make_cuhk_sysu(root: Path) -> Path:
    """Six images, four in the test pool; p1 is searched for in s2, s3, s4, p2 in s1 and s4."""
    folder = root / "annotation"
    (folder / "test" / "train_test").mkdir(parents=True)

    def image(name: str, *boxes: tuple[int, ...]) -> dict:
        found = [{"idlocate": box(*one), "ishard": np.uint8([[0]])} for one in boxes]
        return {"imname": name, "nAppear": np.uint8([[len(boxes)]]), "box": structs(found)}

    images = [
        image("s1.jpg", (200, 100, 100, 120), (5, 6, 7, 8)),
        image("s2.jpg", (1, 2, 30, 40)),
        image("s3.jpg", (3, 3, 10, 300), (9, 9, 0, 9)),
        image("s4.jpg", (4, 4, 40, 40)),
        image("s5.jpg", (5, 5, 50, 50), (6, 6, 6, 6)),
        image("s6.jpg", (6, 6, 60, 60)),
    ]
    savemat(folder / "Images.mat", {"Img": structs(images)})
    savemat(folder / "pool.mat", {"pool": cells(["s1.jpg", "s2.jpg", "s3.jpg", "s4.jpg"])})
    persons = [
        {
            "idname": "p9",
            "nAppear": np.uint8([[2]]),
            "scene": structs([place("s5.jpg", 5, 5, 50, 50), place("s6.jpg", 6, 6, 60, 60)]),
        },
        {
            "idname": "p2",
            "nAppear": np.uint8([[1]]),
            "scene": structs([place("s3.jpg", 3, 3, 10, 300)]),
        },
    ]
    savemat(folder / "Person.mat", {"Person": structs(persons)})
    tests = [
        {
            "Query": structs([place("s1.jpg", 200, 100, 100, 120, idname="p1")]),
            "Gallery": structs([place("s2.jpg", 1, 2, 30, 40), place("s3.jpg"), place("s4.jpg")]),
        },
        {
            "Query": structs([place("s3.jpg", 3, 3, 10, 300, idname="p2")]),
            "Gallery": structs([place("s1.jpg", 5, 6, 7, 8), place("s4.jpg")]),
        },
    ]
    path = folder / "test" / "train_test" / "TestG100.mat"
    savemat(path, {"TestG100": structs(tests)})
    return root


def test_prw_test_half(tmp_path) -> None:
    found = read_prw(make_prw(tmp_path))
    assert found.image_names == ("c1s1_000151", "c1s1_000176", "c2s1_000001", "c3s1_000001")
    assert [(q.name, q.image, q.box) for q in found.queries] == [
        ("479_0", "c1s1_000151", (10, 20, 40.5, 80)),
        ("479_1", "c2s1_000001", (1, 1, 31, 61)),
        ("7_0", "c1s1_000176", (100, 50, 120, 105)),
    ]
    assert found.identities == (7, 479)
    assert sum(one.identity == UNLABELLED for one in found.boxes) == 1
    positives = found.positives(found.queries[0])
    assert [(one.image, one.box) for one in positives] == [
        ("c1s1_000176", (11, 21, 41, 81)),
        ("c2s1_000001", (1, 1, 31, 61)),
    ]


def test_prw_boxes_without_area_are_left_out_and_told(tmp_path, caplog) -> None:
    with caplog.at_level("WARNING", logger="spil_d2"):
        found = read_prw(make_prw(tmp_path))
    assert 8 not in found.identities
    assert "left out 1 of 6 boxes" in caplog.text


def test_prw_training_half_has_no_queries(tmp_path) -> None:
    found = read_prw(make_prw(tmp_path), "train")
    assert found.identities == (932,)
    assert found.queries == ()


def test_cuhk_sysu_test_half(tmp_path) -> None:
    found = read_cuhk_sysu(make_cuhk_sysu(tmp_path))
    assert found.image_names == ("s1", "s2", "s3", "s4")
    assert [(q.name, q.image, q.box) for q in found.queries] == [
        ("1_0", "s1", (200, 100, 300, 220)),
        ("2_0", "s3", (3, 3, 13, 303)),
    ]
    assert found.galleries is not None
    assert found.galleries.images == {"1_0": ("s2", "s3", "s4"), "2_0": ("s1", "s4")}
    assert found.galleries.label == "local_TestG100"
    assert [(o.image, o.box) for o in found.positives(found.queries[0])] == [("s2", (1, 2, 31, 42))]
    assert [(o.image, o.box) for o in found.positives(found.queries[1])] == [("s1", (5, 6, 12, 14))]
    unlabelled = [one.image for one in found.boxes if one.identity == UNLABELLED]
    assert unlabelled == ["s4"], "the box of s3 without area is left out"


def test_cuhk_sysu_training_half_has_the_persons_of_its_images(tmp_path) -> None:
    found = read_cuhk_sysu(make_cuhk_sysu(tmp_path), "train")
    assert found.image_names == ("s5", "s6")
    assert [(o.identity, o.image) for o in found.boxes] == [
        (9, "s5"),
        (UNLABELLED, "s5"),
        (9, "s6"),
    ]
    assert found.queries == ()
    assert found.galleries is None


def test_other_gallery_sizes(tmp_path) -> None:
    with pytest.raises(ValueError, match="gallery_size is 7"):
        read_cuhk_sysu(tmp_path, gallery_size=7)
    with pytest.raises(DatasetError, match=r"TestG50\.mat"):
        read_cuhk_sysu(make_cuhk_sysu(tmp_path), gallery_size=50)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("frame_test.mat", {"other": np.zeros(2)}, r"frame_test\.mat: holds \['other'\]"),
        ("annotations/c1s1_000151.jpg.mat", {"x": np.zeros((1, 5))}, r"151\.jpg\.mat: holds"),
        ("annotations/c1s1_000151.jpg.mat", {"box_new": np.zeros((1, 4))}, "five numbers"),
    ],
)
def test_a_wrong_prw_file_is_named(tmp_path, file: str, content: dict, message: str) -> None:
    make_prw(tmp_path)
    savemat(tmp_path / file, content)
    with pytest.raises(DatasetError, match=message):
        read_prw(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("479 1 2 3 4", r"query_info\.txt:1: 5 fields"),
        ("479 1 2 3 x c1s1_000151", r"query_info\.txt:1: not a number"),
        ("479 1 2 0 4 c1s1_000151", r"query_info\.txt:1: .*no area"),
    ],
)
def test_a_wrong_prw_query_is_named(tmp_path, line: str, message: str) -> None:
    make_prw(tmp_path)
    (tmp_path / "query_info.txt").write_text(line + "\n")
    with pytest.raises(DatasetError, match=message):
        read_prw(tmp_path)


def test_a_missing_or_broken_matlab_file_is_named(tmp_path) -> None:
    make_prw(tmp_path)
    path = tmp_path / "annotations" / "c1s1_000176.jpg.mat"
    path.write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"c1s1_000176\.jpg\.mat"):
        read_prw(tmp_path)
    path.unlink()
    with pytest.raises(DatasetError, match=r"c1s1_000176\.jpg\.mat"):
        read_prw(tmp_path)


def test_a_gallery_image_outside_the_pool_is_named(tmp_path) -> None:
    root = make_cuhk_sysu(tmp_path)
    savemat(root / "annotation" / "pool.mat", {"pool": cells(["s1.jpg", "s2.jpg", "s3.jpg"])})
    with pytest.raises(DatasetError, match=r"TestG100\.mat: the gallery of query 1_0 names s4"):
        read_cuhk_sysu(root)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (place("s1.jpg", idname="p1"), r"TestG100\(1\): the query of p1 in s1 has no box"),
        (place("s1.jpg", 1, 2, 3, idname="p1"), r"TestG100\(1\): idlocate"),
        (place("s1.jpg", 1, 2, 3, 4, idname="one"), r"TestG100\(1\): idname is 'one'"),
        (place("s1.jpg", 1, 2, 3, 4), r"TestG100\(1\): has the fields"),
    ],
)
def test_a_wrong_cuhk_query_is_named(tmp_path, query: dict, message: str) -> None:
    root = make_cuhk_sysu(tmp_path)
    record = {"Query": structs([query]), "Gallery": structs([place("s2.jpg", 1, 2, 30, 40)])}
    path = root / "annotation" / "test" / "train_test" / "TestG100.mat"
    savemat(path, {"TestG100": structs([record])})
    with pytest.raises(DatasetError, match=message):
        read_cuhk_sysu(root)
