"""INS-PRW, INS-CUHK-SYSU, PRW and CUHK-SYSU as trees of images, from registration to metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from scipy.io import savemat

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.identity_split import IdentitySplit, split_dataset
from spil_d2.data.datasets.image_sizes import SIZES_FILE, read_sizes
from spil_d2.data.datasets.ins_annotations import read_ins_annotations
from spil_d2.data.datasets.instance_search import get_dataset_root, get_queries
from spil_d2.data.datasets.official import get_protocol_facts
from spil_d2.data.datasets.person_search import (
    ImageTree,
    load_cuhk_sysu,
    load_ins,
    load_prw,
    register_person_search,
)
from spil_d2.evaluation import annotation_protocol, dataset_protocol, judge_regions
from spil_d2.evaluation.ins_protocol import PRESETS, Protocol
from spil_d2.structures import RegionList, RegionLists

from .matlab_arrays import cells, structs

SIZE = (64, 48)
# Identities 0 and 1 in three images each; one box ends a pixel below its image, as in INS-PRW.
GALLERY = """\
0 10 20 30 40 c1s1_000001
0 5 5 25 49 c2s1_000002.jpg
0 1 1 20 20 c1s1_000003
1 30 10 60 40 c1s1_000004
1 2 2 30 30 c3s1_000005
1 4 4 30 30 c2s1_000006
"""
QUERY = """\
0 10 20 30 40 c1s1_000001
0 5 5 25 49 c2s1_000002
1 30 10 60 40 c1s1_000004
1 2 2 30 30 c3s1_000005
1 4 4 30 30 c2s1_000006
"""
NAMES = ("c1s1_000001", "c1s1_000003", "c1s1_000004", "c2s1_000002", "c2s1_000006", "c3s1_000005")


@pytest.fixture(autouse=True)
def catalog() -> Iterator[None]:
    """Names that a test registers are free again after it."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def save_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 60)).save(path)


def make_ins_prw(root: Path, layout: str = "flat") -> Path:
    folder = root / "ins_prw"
    (folder / "annotation").mkdir(parents=True)
    (folder / "annotation" / "INS_PRW_gallery.txt").write_text(GALLERY)
    (folder / "annotation" / "INS_PRW_query.txt").write_text(QUERY)
    for name in NAMES:
        if layout == "flat":
            save_image(folder / "images" / f"{name}.jpg")
        else:
            device = folder / "valid_images" / "test_gallery" / name[:2]
            save_image(device / f"{name[2:]}.jpg")
    return folder


def make_ins_cuhk_sysu(root: Path, device: str = "") -> Path:
    """Four identities of two images each, and an image more in the tree."""
    folder = root / "ins_cuhk_sysu"
    folder.mkdir(parents=True)
    rows = [f"{i} 5 5 {20 + i} 30 s{2 * i + k + 1}" for i in range(4) for k in range(2)]
    (folder / "INS_CUHK_SYSU_gallery.txt").write_text("\n".join(rows) + "\n")
    (folder / "INS_CUHK_SYSU_query.txt").write_text("\n".join(rows[::2]) + "\n")
    for i in range(9):
        save_image(folder / "images" / device / f"s{i + 1}.jpg")
    return folder


def perfect(protocol: Protocol) -> RegionLists:
    """The ground truth itself, and after it a wrong box on every image."""
    lists = []
    for query in protocol.queries:
        count = len(protocol.image_ids)
        images = np.concatenate([protocol.image_ids[query.gt_images], protocol.image_ids])
        boxes = np.concatenate([query.gt_boxes, np.tile([0.0, 0.0, 1.0, 1.0], (count, 1))])
        scores = np.repeat([1.0, 0.1], [len(query.gt_images), count])
        order = np.lexsort((*boxes.T[::-1], images, -scores))
        lists.append(
            RegionList(
                query.query_id,
                images[order],
                boxes[order].astype(np.float32),
                scores[order].astype(np.float32),
            )
        )
    return RegionLists(tuple(lists))


def protocol_of(name: str, rules: str, split: IdentitySplit | None = None) -> Protocol:
    """As an evaluation of a registered dataset makes it."""
    dicts, queries = DatasetCatalog.get(name), get_queries(name)
    dicts, queries = split_dataset(dicts, queries, split or IdentitySplit())
    arguments = get_protocol_facts(name).arguments(dicts, PRESETS[rules].gallery_range)
    return dataset_protocol(PRESETS[rules], dicts, queries, **arguments)


@pytest.mark.parametrize("layout", ["flat", "device"])
def test_a_tree_goes_from_registration_to_metrics(tmp_path, layout: str) -> None:
    make_ins_prw(tmp_path, layout)
    assert register_person_search(tmp_path) == ["ins_prw", "ins_prw_all"]
    whole = protocol_of("ins_prw", "ins_prw")
    # 0_0 finds c2, its other image is in its own camera; 0_1 finds both of c1; ID 1 finds two each.
    assert [len(query.gt_images) for query in whole.queries] == [1, 2, 2, 2, 2]
    assert judge_regions(whole, perfect(whole)).metrics()[
        "ins_prw/global/mAP_retrieval@IoU0.5"
    ] == pytest.approx(100)
    half = protocol_of("ins_prw", "ins_prw", IdentitySplit("odd"))
    assert {query.name for query in half.queries} == {"1_0", "1_1", "1_2"}
    assert len(half.image_names) == 3
    assert judge_regions(half, perfect(half)).metrics()[
        "ins_prw/global/mAP_retrieval@IoU0.5"
    ] == pytest.approx(100)
    wrong = RegionLists(tuple(one.take(np.zeros(0, np.int64)) for one in perfect(half).lists))
    assert judge_regions(half, wrong).metrics()["ins_prw/global/mAP_retrieval@IoU0.5"] == 0


def test_ids_are_those_of_the_protocol_of_the_annotation_files(tmp_path) -> None:
    folder = make_ins_prw(tmp_path)
    register_person_search(tmp_path)
    ours = protocol_of("ins_prw", "ins_prw")
    annotations = read_ins_annotations(folder / "annotation", "INS_PRW").clipped(
        dict.fromkeys(NAMES, SIZE)
    )
    theirs = annotation_protocol(PRESETS["ins_prw"], annotations)
    assert ours.image_names == theirs.image_names == NAMES
    assert ours.key == theirs.key
    assert ours.image_ids.tolist() == theirs.image_ids.tolist()
    for one, other in zip(ours.queries, theirs.queries, strict=True):
        assert (one.name, one.query_id) == (other.name, other.query_id)
        np.testing.assert_array_equal(one.gt_boxes, other.gt_boxes)
        np.testing.assert_array_equal(one.ignored, other.ignored)


def test_dicts_and_queries_of_ins_prw(tmp_path) -> None:
    loaded = load_ins(make_ins_prw(tmp_path, "device"), "INS_PRW")
    record = loaded.dicts[3]
    assert (record["image_name"], record["camera"]) == ("c2s1_000002", 2)
    assert (record["width"], record["height"]) == SIZE
    assert record["file_name"].endswith("test_gallery/c2/s1_000002.jpg")
    (annotation,) = record["annotations"]
    # 49 is clipped to the height of 48.
    assert (annotation["instance_id"], annotation["bbox"]) == (0, [5, 5, 20, 43])
    query = loaded.queries[1]
    assert query.primary.box == (5, 5, 25, 48)
    assert (query.id, query.instance_id, query.own_image_ids) == (1, 0, frozenset({3}))
    assert loaded.facts.query_names == {0: "0_0", 1: "0_1", 2: "1_0", 3: "1_1", 4: "1_2"}


def test_all_images_of_the_tree_can_be_searched(tmp_path) -> None:
    folder = make_ins_prw(tmp_path)
    save_image(folder / "images" / "c6s1_000009.jpg", (72, 57))
    loaded = load_ins(folder, "INS_PRW", all_images=True)
    assert len(loaded.dicts) == 7
    assert loaded.facts.global_label == "global_7_images"
    assert (loaded.dicts[-1]["width"], loaded.dicts[-1]["annotations"]) == (72, [])


def test_what_a_caller_changes_does_not_stay(tmp_path) -> None:
    make_ins_prw(tmp_path)
    register_person_search(tmp_path)
    DatasetCatalog.get("ins_prw")[0]["annotations"][0]["bbox"] = None
    assert DatasetCatalog.get("ins_prw")[0]["annotations"][0]["bbox"] == [10, 20, 20, 20]


def test_registering_twice_and_without_folders(tmp_path) -> None:
    assert register_person_search(tmp_path / "absent") == []
    make_ins_prw(tmp_path / "here")
    for _ in range(2):
        assert register_person_search(tmp_path / "here") == ["ins_prw", "ins_prw_all"]
    make_ins_prw(tmp_path / "there")
    assert register_person_search(tmp_path / "there") == []
    with pytest.raises(KeyError, match="publisher's layout"):
        get_dataset_root("ins_prw")


def test_missing_image_names_file_and_image(tmp_path) -> None:
    folder = make_ins_prw(tmp_path)
    (folder / "images" / "c2s1_000006.jpg").unlink()
    with pytest.raises(DatasetError, match=r"INS_PRW_gallery\.txt: 1 of 6 .*c2/s1_000006\.jpg"):
        load_ins(folder, "INS_PRW")


def test_box_outside_its_image_names_file_and_record(tmp_path) -> None:
    folder = make_ins_prw(tmp_path)
    save_image(folder / "images" / "c1s1_000004.jpg", (20, 48))
    with pytest.raises(DatasetError, match=r"INS_PRW_gallery\.txt: ID 1: .*c1s1_000004"):
        load_ins(folder, "INS_PRW")


def test_two_files_of_one_raw_name(tmp_path) -> None:
    save_image(tmp_path / "c1s1_000001.jpg")
    save_image(tmp_path / "c1" / "s1_000001.jpg")
    with pytest.raises(DatasetError, match="c1s1_000001"):
        ImageTree.scan(tmp_path)


def test_trainval_images_are_a_dataset_without_labels(tmp_path) -> None:
    folder = make_ins_prw(tmp_path, "device")
    save_image(folder / "valid_images" / "trainval" / "c5" / "s1_000100.jpg")
    assert "ins_prw_trainval" in register_person_search(tmp_path)
    (record,) = DatasetCatalog.get("ins_prw_trainval")
    assert record["image_name"] == "c5s1_000100"
    assert record["annotations"] == []
    assert get_queries("ins_prw_trainval") == []
    used = {one["image_id"] for one in DatasetCatalog.get("ins_prw")}
    assert record["image_id"] not in used


@pytest.mark.parametrize("device", ["", "cam0"])
def test_ins_cuhk_sysu_with_made_up_galleries(tmp_path, caplog, device: str) -> None:
    make_ins_cuhk_sysu(tmp_path, device)
    register_person_search(tmp_path)
    with caplog.at_level(logging.WARNING):
        protocol = protocol_of("ins_cuhk_sysu", "ins_cuhk_sysu")
    assert "made up" in caplog.text
    assert protocol.key == "ins_cuhk_sysu/local_synthetic100_seed0"
    # Eight images, of which the query's own is never in its gallery.
    assert [len(query.searched) for query in protocol.queries] == [7] * 4
    report = judge_regions(protocol, perfect(protocol)).metrics()
    assert report[f"{protocol.key}/mAP_retrieval@IoU0.5"] == pytest.approx(100)


def test_ins_cuhk_sysu_with_a_local_gallery_file_and_a_split(tmp_path) -> None:
    folder = make_ins_cuhk_sysu(tmp_path)
    rows = [f"{i} s{2 * i + 2}.jpg s{2 * (1 - i % 2) + 1}" for i in range(4)]
    (folder / "INS_CUHK_SYSU_local_gallery.txt").write_text("\n".join(rows) + "\n")
    register_person_search(tmp_path)
    protocol = protocol_of("ins_cuhk_sysu", "ins_cuhk_sysu")
    assert protocol.key == "ins_cuhk_sysu/local"
    searched = [protocol.image_names[i] for i in protocol.queries[0].searched]
    assert searched == ["s2", "s3"]
    half = protocol_of("ins_cuhk_sysu", "ins_cuhk_sysu", IdentitySplit("even"))
    assert half.key == "ins_cuhk_sysu/local_part"
    assert [half.image_names[i] for i in half.queries[0].searched] == ["s2"]


def test_sizes_are_read_once(tmp_path, monkeypatch) -> None:
    path = tmp_path / "images" / "a.jpg"
    save_image(path)
    assert read_sizes(tmp_path, {"a": path}) == {"a": SIZE}
    assert list(json.loads((tmp_path / SIZES_FILE).read_text())) == ["images/a.jpg"]
    opened: list[Path] = []
    monkeypatch.setattr(
        "spil_d2.data.datasets.image_sizes.displayed_size",
        lambda found: (opened.append(found), (7, 8))[1],
    )
    assert read_sizes(tmp_path, {"a": path}) == {"a": SIZE}
    assert not opened
    save_image(path, (100, 90))
    assert read_sizes(tmp_path, {"a": path}) == {"a": (7, 8)}
    (tmp_path / SIZES_FILE).write_text("{broken")
    assert read_sizes(tmp_path, {"a": path}) == {"a": (7, 8)}
    with pytest.raises(DatasetError, match=r"b\.jpg"):
        read_sizes(tmp_path, {"b": tmp_path / "b.jpg"})


def place(image: str, *xywh: int, **more: object) -> dict:
    return {"imname": image, "idlocate": np.array([xywh], np.uint16), **more}


def test_prw_as_published(tmp_path) -> None:
    folder = tmp_path / "prw"
    (folder / "annotations").mkdir(parents=True)
    frames = {
        "c1s1_000151": [[479, 10, 2, 20.5, 40], [-2, 5, 5, 10, 20]],
        "c2s1_000001": [[479, 1, 1, 30, 60]],
        "c3s1_000001": [[932, 1, 1, 30, 20]],
    }
    for name, rows in frames.items():
        savemat(folder / "annotations" / f"{name}.jpg.mat", {"box_new": np.array(rows, float)})
        save_image(folder / "frames" / f"{name}.jpg")
    savemat(folder / "frame_test.mat", {"img_index_test": cells(list(frames)[:2])})
    savemat(folder / "frame_train.mat", {"img_index_train": cells(list(frames)[2:])})
    (folder / "query_info.txt").write_text("479 10 2 20.5 40 c1s1_000151\n")
    assert register_person_search(tmp_path) == ["prw", "prw_train"]
    first, second = DatasetCatalog.get("prw")
    # The box of nobody is left out; the other one's is clipped.
    assert [one["instance_id"] for one in first["annotations"]] == [479]
    assert second["annotations"][0]["bbox"] == [1, 1, 30, 47]
    (query,) = get_queries("prw")
    assert query.primary.box == (10, 2, 30.5, 42)
    train = load_prw(folder, "train", first_image_id=50)
    assert [one["image_id"] for one in train.dicts] == [50]
    assert [one["image_id"] for one in DatasetCatalog.get("prw_train")] == [1_000_000]


def test_cuhk_sysu_as_published(tmp_path) -> None:
    folder = tmp_path / "cuhk_sysu"
    (folder / "annotation" / "test" / "train_test").mkdir(parents=True)

    def image(name: str, *boxes: tuple[int, ...]) -> dict:
        save_image(folder / "Image" / "SSM" / name)
        return {"imname": name, "box": structs([{"idlocate": np.array([b])} for b in boxes])}

    images = [
        image("s1.jpg", (5, 6, 20, 30), (40, 6, 7, 8)),
        image("s2.jpg", (1, 2, 30, 40)),
        image("s3.jpg", (3, 3, 10, 30)),
        image("s4.jpg", (4, 4, 40, 40), (4, 4, 10, 10)),
    ]
    annotation = folder / "annotation"
    savemat(annotation / "Images.mat", {"Img": structs(images)})
    savemat(annotation / "pool.mat", {"pool": cells(["s1.jpg", "s2.jpg", "s3.jpg"])})
    tests = [
        {
            "Query": structs([place("s1.jpg", 5, 6, 20, 30, idname="p7")]),
            "Gallery": structs([place("s2.jpg", 1, 2, 30, 40), place("s3.jpg")]),
        },
        {
            "Query": structs([place("s3.jpg", 3, 3, 10, 30, idname="p8")]),
            "Gallery": structs([place("s1.jpg", 40, 6, 7, 8), place("s2.jpg")]),
        },
    ]
    path = annotation / "test" / "train_test" / "TestG100.mat"
    savemat(path, {"TestG100": structs(tests)})
    loaded = load_cuhk_sysu(folder)
    assert [len(record["annotations"]) for record in loaded.dicts] == [2, 1, 1]
    assert register_person_search(tmp_path) == ["cuhk_sysu", "cuhk_sysu_train"]
    protocol = protocol_of("cuhk_sysu", "cuhk_sysu")
    assert protocol.key == "cuhk_sysu/local_TestG100"
    assert [query.name for query in protocol.queries] == ["7_0", "8_0"]
    report = judge_regions(protocol, perfect(protocol)).metrics()
    assert report["cuhk_sysu/local_TestG100/mAP_retrieval@IoU0.5"] == pytest.approx(100)
