"""Each way in which a data set can be wrong is found, with its file and record."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from spil_d2.data.datasets.instance_search import check_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 20, 10
SIZE = {"width": WIDTH, "height": HEIGHT}

GALLERY = {
    "images": [
        {"id": 4, "file_name": "a.png", **SIZE},
        {"id": 9, "file_name": "b.jpg", **SIZE},
    ],
    "annotations": [
        {"id": 1, "image_id": 4, "instance_id": 5, "bbox": [2, 3, 8, 4]},
        {"id": 2, "image_id": 9, "instance_id": 5, "bbox": [0, 0, 20, 10]},
    ],
    "instances": [{"id": 5, "name": "mug"}],
}
QUERY = {"image_id": None, "instance_id": 5, "bbox": [1, 1, 5, 6], **SIZE}
QUERIES = [
    {"id": 1, "file_name": "queries/q.png", **QUERY},
    {"id": 2, "file_name": "images/a.png", **QUERY, "image_id": 4},
]


@pytest.fixture
def root(tmp_path):
    """A sound data set."""
    (tmp_path / "images").mkdir()
    (tmp_path / "queries").mkdir()
    for name in ("images/a.png", "images/b.jpg", "queries/q.png"):
        Image.effect_noise((WIDTH, HEIGHT), 80).convert("RGB").save(tmp_path / name)
    write(tmp_path, GALLERY, QUERIES)
    return tmp_path


def write(root: Path, gallery, queries) -> None:
    (root / "annotations.json").write_text(json.dumps(gallery))
    (root / "queries.json").write_text(json.dumps(queries))


def changed(content, path: str, value):
    """A copy of parsed JSON with the value at a path like `images.0.id` set, or removed."""
    result = copy.deepcopy(content)
    *parents, last = [int(k) if k.isdigit() else k for k in path.split(".")]
    place = result
    for key in parents:
        place = place[key]
    if value is REMOVE:
        del place[last]
    else:
        place[last] = value
    return result


REMOVE = object()


def test_a_sound_data_set_has_no_problems(root):
    assert check_dataset(root) == []


@pytest.mark.parametrize(
    "path, value, record, message",
    [
        ("images.1.id", 4, "images[1] (id 4)", "already that of images[0]"),
        ("images.1.id", "9", "images[1] (id 9)", "id must be an integer"),
        ("images.0.id", True, "images[0] (id True)", "id must be an integer"),
        ("images.0.width", 21, "images[0] (id 4)", "the picture has 20x10 pixels"),
        ("images.0.height", 0, "images[0] (id 4)", "height must be at least 1"),
        ("images.0.height", 10.0, "images[0] (id 4)", "height must be an integer"),
        ("images.0.file_name", "gone.png", "images[0] (id 4)", "there is no file"),
        ("images.0.file_name", "../queries/q.png", "images[0] (id 4)", "stay inside"),
        ("images.0.file_name", "/etc/hostname", "images[0] (id 4)", "relative"),
        ("images.0.file_name", 3, "images[0] (id 4)", "file_name must be"),
        ("images.0.file_name", REMOVE, "images[0] (id 4)", "'file_name' is missing"),
        ("images.0", [4], "images[0]", "must be an object"),
        ("images", REMOVE, "top level", "'images' is missing"),
        ("images", {}, "top level", "images must be a list"),
        ("annotations.1.id", 1, "annotations[1] (id 1)", "already that of annotations[0]"),
        ("annotations.0.bbox", [2, 3, 0, 4], "annotations[0] (id 1)", "is empty"),
        ("annotations.0.bbox", [2, 3, 8, -4], "annotations[0] (id 1)", "is empty"),
        ("annotations.0.bbox", [20.25, 3, 0.1, 4], "annotations[0] (id 1)", "is empty after"),
        ("annotations.0.bbox", [13, 3, 8, 4], "annotations[0] (id 1)", "1.00 px outside"),
        ("annotations.0.bbox", [-0.51, 3, 8, 4], "annotations[0] (id 1)", "0.51 px outside"),
        ("annotations.0.bbox", [2, 3, 8], "annotations[0] (id 1)", "four numbers"),
        ("annotations.0.bbox", [2, 3, 8, "4"], "annotations[0] (id 1)", "four numbers"),
        ("annotations.0.bbox", [2, 3, 8, float("nan")], "annotations[0] (id 1)", "four numbers"),
        ("annotations.0.bbox", REMOVE, "annotations[0] (id 1)", "'bbox' is missing"),
        ("annotations.0.image_id", 8, "annotations[0] (id 1)", "image_id 8 is not in the list"),
        ("annotations.0.image_id", REMOVE, "annotations[0] (id 1)", "'image_id' is missing"),
        ("annotations.0.instance_id", 6, "annotations[0] (id 1)", "instance_id 6 is not in"),
        ("annotations.0.instance_id", None, "annotations[0] (id 1)", "must be an integer"),
        ("annotations.0.iscrowd", 2, "annotations[0] (id 1)", "allowed: [0, 1]"),
        ("annotations.0.segmentation", [[1, 2, 3]], "annotations[0] (id 1)", "polygons"),
        (
            "annotations.0.segmentation",
            {"size": [20, 10], "counts": "11"},
            "annotations[0] (id 1)",
            "must be [height, width] = [10, 20]",
        ),
        (
            "annotations.0.segmentation",
            {"size": [10, 20], "counts": None},
            "annotations[0] (id 1)",
            "counts must be RLE",
        ),
        ("instances.0", {"id": "5"}, "instances[0] (id 5)", "id must be an integer"),
    ],
)
def test_problems_of_the_gallery(root, path, value, record, message):
    write(root, changed(GALLERY, path, value), QUERIES)
    problems = check_dataset(root)
    found = [p for p in problems if p.record == record and message in p.message]
    assert len(found) == 1, problems
    is_picture = "the picture" in message
    expected = root / "images" / "a.png" if is_picture else root / "annotations.json"
    assert found[0].file == str(expected)


@pytest.mark.parametrize(
    "path, value, record, message",
    [
        ("1.id", 1, "queries[1] (id 1)", "already that of queries[0]"),
        ("0.id", REMOVE, "queries[0]", "'id' is missing"),
        ("0.file_name", "queries/gone.png", "queries[0] (id 1)", "there is no file"),
        ("0.bbox", [1, 1, 5, 60], "queries[0] (id 1)", "px outside"),
        ("0.bbox", [1, 1, 0, 6], "queries[0] (id 1)", "is empty"),
        ("0.instance_id", 6, "queries[0] (id 1)", "instance_id 6 is not in the list"),
        ("0.instance_id", "mug", "queries[0] (id 1)", "instance_id must be an integer"),
        ("1.image_id", 8, "queries[1] (id 2)", "image_id 8 is not in the list"),
        ("1.width", 19, "queries[1] (id 2)", "gallery image 4 has 20x10"),
        ("0.references", {}, "queries[0] (id 1)", "references must be a list"),
        (
            "0.references",
            [{"file_name": "queries/q.png", **SIZE, "image_id": None}],
            "queries[0] (id 1).references[0]",
            "'bbox' is missing",
        ),
        ("0", "q.png", "queries[0]", "must be an object"),
    ],
)
def test_problems_of_the_queries(root, path, value, record, message):
    write(root, GALLERY, changed(QUERIES, path, value))
    problems = check_dataset(root)
    found = [p for p in problems if p.record == record and message in p.message]
    assert len(found) == 1, problems
    assert found[0].file == str(root / "queries.json")


@pytest.mark.parametrize("name", ["annotations.json", "queries.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b'"text"', None])
def test_unreadable_json(root, name, content):
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content)
    problems = check_dataset(root)
    assert any(p.file == str(root / name) for p in problems), problems


@pytest.mark.parametrize("decode, num_problems", [(True, 1), (False, 0)])
def test_a_picture_that_is_cut_off_is_found_by_decoding(root, decode, num_problems):
    path = root / "images" / "b.jpg"
    path.write_bytes(path.read_bytes()[:-60])
    problems = check_dataset(root, decode=decode)
    assert [(p.file, p.record) for p in problems] == [(str(path), "images[1] (id 9)")][
        :num_problems
    ]


def test_a_file_that_is_no_picture_is_found_from_its_header(root):
    (root / "queries" / "q.png").write_bytes(b"hello")
    (problem,) = check_dataset(root, decode=False)
    assert problem.file == str(root / "queries" / "q.png")
    assert problem.record == "queries[0] (id 1)"


def test_the_size_is_that_after_the_turn_of_exif(root):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "images" / "b.jpg", exif=exif)
    assert check_dataset(root) == []


def test_all_problems_are_collected(root):
    gallery = changed(GALLERY, "annotations.0.bbox", [0, 0, 0, 0])
    gallery = changed(gallery, "annotations.1.instance_id", 77)
    queries = changed(QUERIES, "0.file_name", "queries/gone.png")
    queries = changed(queries, "1.bbox", [1, 1, 50, 5])
    write(root, gallery, queries)
    (root / "images" / "a.png").write_bytes(b"")
    (root / "images" / "b.jpg").write_bytes(b"")
    records = [p.record for p in check_dataset(root)]
    assert sorted(records) == [
        "annotations[0] (id 1)",
        "annotations[1] (id 2)",
        "images[0] (id 4)",
        "images[1] (id 9)",
        "queries[0] (id 1)",
        "queries[1] (id 2)",
    ]


def test_a_bad_image_is_not_reported_again_by_its_annotations(root):
    (root / "images" / "a.png").unlink()
    records = [p.record for p in check_dataset(root)]
    assert records == ["images[0] (id 4)", "queries[1] (id 2)"]


def test_progress_sees_every_picture(root):
    seen = []

    def progress(items):
        seen.extend(items)
        return items

    check_dataset(root, progress=progress)
    assert len(seen) == 4


@pytest.fixture(scope="module")
def tool():
    path = REPOSITORY / "tools" / "check_dataset.py"
    spec = importlib.util.spec_from_file_location("check_dataset_tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_prints_problems_and_a_summary(root, tool, capsys):
    assert tool.main([str(root)]) == 0
    output = capsys.readouterr().out
    assert "queries    2 (1 external)" in output
    assert "images per instance (min / median / max)  2 / 2 / 2" in output
    write(root, changed(GALLERY, "annotations.0.bbox", [0, 0, 0, 0]), QUERIES)
    assert tool.main([str(root), "--no-decode"]) == 1
    output = capsys.readouterr().out
    assert f"{root / 'annotations.json'}: annotations[0] (id 1): bbox" in output
    assert "1 problems" in output


def test_the_tool_names_the_known_data_sets(tool, capsys):
    assert tool.main(["ins_nowhere"]) == 1
    assert "available" in capsys.readouterr().out
