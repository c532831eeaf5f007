"""Few-shot tasks: reading COCO-format files, the views, and the official layouts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from spil_d2.data.datasets.few_shot import COCO_SPLIT, ClassSplit, register_few_shot
from spil_d2.data.datasets.few_shot_builtin import GROCERIES_SPLIT, register_few_shot_builtin
from spil_d2.data.datasets.few_shot_coco import load_coco, parse_coco
from spil_d2.data.datasets.few_shot_prepare import write_fewx_list, write_shot_files
from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.instance_search import get_queries
from spil_d2.data.datasets.synthetic_coco import build_tiny_coco
from spil_d2.evaluation import GroundTruth
from spil_d2.utils.shared import find_shared

SIZE = (40, 30)
NAMES = {3: "mug", 5: "pen", 8: "clip"}
SPLIT = ClassSplit((3, 8), (5,), NAMES)


@pytest.fixture
def catalog():
    """What a test registers is forgotten afterwards."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def content(boxes: list[tuple[int, int]], **changes) -> dict:
    """Annotations of (image id, category id), ids from 1 on."""
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": [2, 3, 10 + i, 8]}
        for i, (image, category) in enumerate(boxes, 1)
    ]
    size = {"width": SIZE[0], "height": SIZE[1]}
    images = [{"id": i, "file_name": f"{i}.png", **size} for i in range(1, 21)]
    categories = [{"id": i, "name": name} for i, name in NAMES.items()]
    base = {"images": images, "annotations": annotations, "categories": categories}
    return {**base, **changes}


BOXES = [(1, 3), (1, 5), (2, 5), (2, 5), (3, 3), (3, 8), (4, 5), (5, 8), (6, 3), (7, 5), (9, 8)]


def write_task(root: Path) -> dict:
    """Pictures, annotations and shot files of the three classes; arguments for registration."""
    (root / "pictures").mkdir(parents=True)
    for i in range(1, 21):
        Image.new("RGB", SIZE, (i, 90, 200)).save(root / "pictures" / f"{i}.png")
    for name in ("train.json", "test.json"):
        (root / name).write_text(json.dumps(content(BOXES)))
    write_shot_files(root / "train.json", root / "shots", ["pen"], [1, 2], [0, 1])
    pictures = [root / "absent", root / "pictures"]
    return {
        "train_json": root / "train.json",
        "train_roots": pictures,
        "test_json": root / "test.json",
        "test_roots": pictures,
        "shots_dir": root / "shots",
        "split": SPLIT,
    }


def test_views_against_the_annotations(tmp_path, catalog, caplog) -> None:
    names = register_few_shot("fs_one", **write_task(tmp_path), shots=2, seed=1)
    assert names == [
        "fs_one_base_train",
        "fs_one_base_val",
        "fs_one_test",
        "fs_one_2shot_seed1",
        "fs_one_2shot_seed1_shots",
    ]
    with caplog.at_level(logging.INFO):
        base = DatasetCatalog.get("fs_one_base_train")
    val = {one["image_id"] for one in DatasetCatalog.get("fs_one_base_val")}
    assert len(val) == 2
    wanted = {}
    for image, category in BOXES:
        if category in SPLIT.base and image not in val:
            wanted.setdefault(image, []).append({3: 0, 8: 1}[category])
    assert {r["image_id"]: [a["category_id"] for a in r["annotations"]] for r in base} == wanted
    hidden = sum(category == 5 and image in wanted for image, category in BOXES)
    assert f"{hidden} boxes of novel classes" in caplog.text

    queries = get_queries("fs_one_2shot_seed1")
    gallery = DatasetCatalog.get("fs_one_2shot_seed1")
    shown = dict(enumerate(BOXES, 1))
    assert len(queries) == 2
    assert all(shown[q.id][1] == q.category_id == q.instance_id == 5 for q in queries)
    assert all(q.primary.image_id is None for q in queries)
    for query in queries:
        assert query.primary.file_name == str(tmp_path / "pictures" / f"{shown[query.id][0]}.png")
        assert query.primary.box == (2, 3, 12 + query.id, 11)
    own = {shown[q.id][0] for q in queries}
    assert {one["image_id"] for one in gallery} == set(range(1, 21)) - own
    assert [
        (r["image_id"], a["instance_id"], a["category_id"])
        for r in gallery
        for a in r["annotations"]
    ] == [(image, 5, 0) for image, category in BOXES if category == 5 and image not in own]
    assert set(GroundTruth.from_dataset(gallery, queries).relevant) == {q.id for q in queries}


def test_test_and_fine_tuning_views_have_all_classes(tmp_path, catalog) -> None:
    register_few_shot("fs_two", **write_task(tmp_path), shots=1, seed=0)
    test = DatasetCatalog.get("fs_two_test")
    assert len(test) == 20
    assert sum(len(one["annotations"]) for one in test) == len(BOXES)
    first = test[0]["annotations"][0]
    assert first == {
        "bbox": [2, 3, 11, 8],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "iscrowd": 0,
    }
    metadata = MetadataCatalog.get("fs_two_test")
    assert metadata.thing_classes == ["mug", "pen", "clip"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 5: 1, 8: 2}
    assert (metadata.base_ids, metadata.novel_ids) == ((3, 8), (5,))
    assert metadata.json_file == str(tmp_path / "test.json")
    shots = DatasetCatalog.get("fs_two_1shot_seed0_shots")
    assert [[a["category_id"] for a in one["annotations"]] for one in shots] == [[0], [1], [2]]


def test_registering_again(tmp_path, catalog) -> None:
    arguments = write_task(tmp_path)
    first = register_few_shot("fs_three", **arguments, shots=1, seed=0)
    assert register_few_shot("fs_three", **arguments, shots=1, seed=0) == first
    more = register_few_shot("fs_three", **arguments, shots=1, seed=1)
    assert more[:3] == first[:3]
    with pytest.raises(ValueError, match="fs_three_base_train"):
        other = {**arguments, "train_json": tmp_path / "other.json"}
        register_few_shot("fs_three", **other, shots=1, seed=0)


def annotation(**changes) -> dict:
    return {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [annotation(bbox=[1, 2, 3])]}, r"annotations\[0\] \(id 1\): bbox must"),
        ({"annotations": [annotation(image_id=99)]}, "image_id 99 is not in the list 'images'"),
        ({"annotations": [annotation(category_id=4)]}, "category_id 4 is not in the list"),
        ({"annotations": [annotation(), annotation()]}, r"annotations\[1\].*id 1 is already that"),
        ({"annotations": [annotation(iscrowd=2)]}, r"iscrowd is 2, allowed: \[0, 1\]"),
        ({"annotations": [7, 8]}, r"must be an object.*and \d more"),
        ({"images": [{"id": 1, "width": 4, "height": 4}]}, r"images\[0\].*'file_name' is missing"),
        ({"images": [{"id": 1, "file_name": "/a", "width": 4, "height": 4}]}, "must be relative"),
        ({"categories": 5}, "categories must be a list"),
    ],
)
def test_what_is_wrong_is_named(changes: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as error:
        parse_coco(Path("/data/some.json"), content([], **changes))
    assert "/data/some.json" in str(error.value)


def test_boxes_are_cut_and_empty_ones_left_out(caplog) -> None:
    boxes = [[-3, 5, 10, 10], [35, 25, 10, 10], [4, 4, 7.25, 0.0], [60, 0, 5, 5], [1, 2, 3, 4]]
    items = [annotation(id=9 - i, bbox=box) for i, box in enumerate(boxes)]
    coco = parse_coco(Path("a.json"), content([], annotations=items))
    assert coco.annotation_ids.tolist() == [5, 8, 9]
    assert coco.boxes.tolist() == [[1, 2, 3, 4], [35, 25, 5, 5], [0, 5, 7, 10]]
    assert "2 of 5 boxes have no area" in caplog.text


def test_a_picture_may_be_listed_twice_but_not_with_two_names() -> None:
    image = {"id": 1, "file_name": "1.png", "width": 9, "height": 9}
    assert len(parse_coco(Path("a"), content([], images=[image, dict(image)])).images) == 1
    with pytest.raises(DatasetError, match=r"images\[1\] \(id 1\).*already that of '1.png'"):
        parse_coco(Path("a"), content([], images=[image, {**image, "file_name": "2.png"}]))


def test_errors_of_views_name_file_and_folders(tmp_path, catalog) -> None:
    arguments = write_task(tmp_path)
    register_few_shot("fs_four", **arguments, shots=1, seed=0)
    (tmp_path / "pictures" / "20.png").unlink()
    with pytest.raises(DatasetError, match=r"test.json.*id 20.*absent \(absent\)"):
        DatasetCatalog.get("fs_four_test")
    register_few_shot("fs_five", **arguments, shots=5, seed=0)
    with pytest.raises(DatasetError, match="full_box_5shot_pen_trainval.json: cannot be read"):
        get_queries("fs_five_5shot_seed0")
    other = ClassSplit((3, 8), (5,), {**NAMES, 8: "cup"})
    register_few_shot("fs_six", **{**arguments, "split": other}, shots=1, seed=0)
    with pytest.raises(DatasetError, match="id 8 is 'clip' here and 'cup'"):
        DatasetCatalog.get("fs_six_base_train")


def test_shot_files_must_hold_exactly_k(tmp_path, catalog) -> None:
    arguments = write_task(tmp_path)
    for pair, message in (([(1, 5), (2, 5)], "2 boxes of 'pen'"), ([(1, 3)], "boxes of 'mug'")):
        path = tmp_path / "shots" / "full_box_1shot_pen_trainval.json"
        path.write_text(json.dumps(content(pair)))
        register_few_shot("fs_seven", **arguments, shots=1, seed=0)
        load_coco.cache_clear()
        with pytest.raises(DatasetError, match=f"1shot_pen_trainval.json.*{message}.*must be"):
            get_queries("fs_seven_1shot_seed0")


def test_split_of_classes() -> None:
    assert (len(COCO_SPLIT.base), len(COCO_SPLIT.novel)) == (60, 20)
    assert sorted(COCO_SPLIT.base + COCO_SPLIT.novel) == sorted(COCO_SPLIT.names)
    # Spec section 6, by hand.
    assert [COCO_SPLIT.names[i] for i in (1, 44, 62, 72)] == ["person", "bottle", "chair", "tv"]
    assert COCO_SPLIT.base[:6] == (8, 10, 11, 13, 14, 15)
    assert COCO_SPLIT.base[-4:] == (87, 88, 89, 90)
    with pytest.raises(ValueError, match=r"\['cap'\] are not among"):
        ClassSplit.from_names(NAMES, {"cap"})
    with pytest.raises(ValueError, match="base and novel at once"):
        ClassSplit((3, 5, 8), (5,), NAMES)
    with pytest.raises(ValueError, match="the same name"):
        ClassSplit((3,), (5,), {3: "mug", 5: "mug"})
    with pytest.raises(ValueError, match="without a name"):
        ClassSplit((3,), (5,), NAMES)
    drawn = ClassSplit.draw(NAMES, 2, 4)
    assert drawn == ClassSplit.draw(dict(reversed(NAMES.items())), 2, 4)
    assert len(drawn.novel) == 2


@pytest.mark.parametrize("year", [2014, 2017])
def test_official_layout(tmp_path, catalog, year: int) -> None:
    build_tiny_coco(tmp_path, year)
    assert register_few_shot_builtin(tmp_path) == ["coco_few_shot"]
    assert register_few_shot_builtin(tmp_path) == []
    names = [name for name in DatasetCatalog.list() if name.startswith("coco_few_shot")]
    assert len(names) == 3 + 2 * 6 * 10
    base = DatasetCatalog.get("coco_few_shot_base_train")
    test = DatasetCatalog.get("coco_few_shot_test")
    assert (len(test), sum(len(one["annotations"]) for one in test)) == (20, 80)
    assert all(Path(one["file_name"]).is_file() for one in [*base, *test])
    folders = {Path(one["file_name"]).parent.name for one in base}
    assert folders == {f"train{year}"}
    for seed in (0, 1):
        queries = get_queries(f"coco_few_shot_2shot_seed{seed}")
        smaller = get_queries(f"coco_few_shot_1shot_seed{seed}")
        assert (len(queries), len(smaller)) == (40, 20)
        assert {one.id for one in smaller} < {one.id for one in queries}
        gallery = DatasetCatalog.get(f"coco_few_shot_2shot_seed{seed}")
        own = {one.primary.file_name for one in queries}
        assert own.isdisjoint(one["file_name"] for one in gallery)
        assert len(gallery) == 80 - len(own)
        assert len(DatasetCatalog.get(f"coco_few_shot_2shot_seed{seed}_shots")) == 160
    crowds = [a for one in base for a in one["annotations"] if a["iscrowd"]]
    assert crowds


def test_images_of_2017_must_be_the_whole_minival(tmp_path, catalog) -> None:
    build_tiny_coco(tmp_path, 2017)
    register_few_shot_builtin(tmp_path)
    Image.new("RGB", SIZE).save(tmp_path / "coco" / "val2017" / "000000000139.jpg")
    with pytest.raises(DatasetError, match=r"5k.json.*20 images must be the 21.*1 more.*id 139"):
        DatasetCatalog.get("coco_few_shot_test")


def test_fewx_list_has_its_own_name(tmp_path, catalog) -> None:
    build_tiny_coco(tmp_path, 2017)
    folder = tmp_path / "coco" / "new_annotations"
    content = json.loads((tmp_path / "cocosplit/datasplit/trainvalno5k.json").read_text())
    size = {"width": 160, "height": 120}
    ids = [(i, k) for i in COCO_SPLIT.novel for k in range(12)]
    images = [{"id": 100 * i + k, "file_name": f"{100 * i + k:012d}.jpg", **size} for i, k in ids]
    boxes = [
        {
            "id": 9000 + n,
            "image_id": 100 * i + k,
            "category_id": i,
            "bbox": [0, 0, 70, 50 if k == 0 else 70],
            "iscrowd": int(k == 1),
        }
        for n, (i, k) in enumerate(ids)
    ]
    source = tmp_path / "instances_train2017.json"
    source.write_text(json.dumps({**content, "images": images, "annotations": boxes}))
    out = folder / "final_split_voc_10_shot_instances_train2017.json"
    assert write_fewx_list(source, out, [COCO_SPLIT.names[i] for i in COCO_SPLIT.novel]) == 200
    for image in images:
        Image.new("RGB", (160, 120)).save(tmp_path / "coco/train2017" / image["file_name"])
    assert register_few_shot_builtin(tmp_path) == ["coco_few_shot", "coco_fewx10shot"]
    queries = get_queries("coco_fewx10shot_10shot_seed0")
    # The first image of each class is too small, the second a crowd.
    assert [q.id - 9000 for q in queries] == [n for n, (_, k) in enumerate(ids) if k >= 2]
    assert len(DatasetCatalog.get("coco_fewx10shot_10shot_seed0_shots")) == 200


def test_a_folder_of_ones_own(tmp_path, catalog, caplog) -> None:
    folder = tmp_path / "few_shot" / "desk"
    write_task(folder)
    for name in ("train", "test"):
        (folder / name).symlink_to(folder / "pictures")
    broken = tmp_path / "few_shot" / "broken" / "shots"
    broken.mkdir(parents=True)
    (broken / "split.json").write_text('{"base": [], "novel": [{"id": 1}]}')
    assert register_few_shot_builtin(tmp_path) == ["fs_desk"]
    assert "broken" in caplog.text and "'name' is missing" in caplog.text
    assert len(get_queries("fs_desk_2shot_seed1")) == 2
    assert len(DatasetCatalog.get("fs_desk_test")) == 20


def test_real_counts() -> None:
    shared = find_shared()
    if shared is None or not (shared / "data" / "groceries25").is_dir():
        pytest.skip("no shared folder with data/groceries25")
    assert (len(GROCERIES_SPLIT.base), len(GROCERIES_SPLIT.novel)) == (15, 10)
    raw = json.loads((shared / "data" / "groceries25" / "train.json").read_text())
    test = DatasetCatalog.get("groceries25_test")
    assert (len(test), sum(len(one["annotations"]) for one in test)) == (1000, 2407)
    for shots in (1, 5, 10):
        drawn = []
        for seed in (0, 1, 2):
            name = f"groceries25_{shots}shot_seed{seed}"
            queries = get_queries(name)
            counts = np.unique([one.category_id for one in queries], return_counts=True)
            assert counts[0].tolist() == list(GROCERIES_SPLIT.novel)
            assert set(counts[1]) == {shots}
            assert len(DatasetCatalog.get(f"{name}_shots")) == 25 * shots
            by_id = {one["id"]: one for one in raw["annotations"]}
            own = {by_id[one.id]["image_id"] for one in queries}
            assert len(DatasetCatalog.get(name)) == 1250 - len(own)
            drawn.append({one.id for one in queries})
        assert len({frozenset(one) for one in drawn}) == 3
    base = DatasetCatalog.get("groceries25_base_train")
    val = {one["image_id"] for one in DatasetCatalog.get("groceries25_base_val")}
    wanted = [
        one
        for one in raw["annotations"]
        if one["category_id"] in GROCERIES_SPLIT.base and one["image_id"] not in val
    ]
    assert sum(len(one["annotations"]) for one in base) == len(wanted)


def test_coco256_has_real_images_with_fewer_shots() -> None:
    shared = find_shared()
    if shared is None or not (shared / "data" / "coco256").is_dir():
        pytest.skip("no shared folder with data/coco256")
    test = DatasetCatalog.get("coco256_test")
    assert (len(test), sum(len(one["annotations"]) for one in test)) == (128, 898)
    metadata = MetadataCatalog.get("coco256_test")
    assert {metadata.category_names[i] for i in metadata.novel_ids} == {
        COCO_SPLIT.names[i] for i in COCO_SPLIT.novel
    }
    queries = get_queries("coco256_5shot_seed0")
    counts = np.unique([one.category_id for one in queries], return_counts=True)[1]
    assert counts.max() == 5 and len(queries) == counts.sum()
