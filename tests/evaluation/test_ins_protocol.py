"""Protocols: what counts for a query, from annotation files, folders and datasets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spil_d2.data.datasets.ins_annotations import LocalGallery, read_ins_annotations
from spil_d2.evaluation.ins_protocol import PRESETS, Protocol, QueryTruth, build_protocol
from spil_d2.evaluation.protocol_sources import (
    annotation_protocol,
    dataset_protocol,
    read_protocol,
)
from spil_d2.structures import Query, Reference
from spil_d2.utils.shared import find_shared

from .conftest import make_record

GALLERY = """\
0 10 20 30 40 c1s1_01
0 10 20 30 40 c2s1_02
0 5 5 90 90 c1s1_03
1 1 2 3 4 c1s1_01
1 1 2 3 4 c1s1_04
"""
QUERY = "0 10 20 30 40 c1s1_01\n0 10 20 30 40 c2s1_02\n1 1 2 3 4 c1s1_04\n"


@pytest.fixture
def annotations(tmp_path):
    for name in ("INS_PRW", "INS_CUHK_SYSU"):
        (tmp_path / f"{name}_gallery.txt").write_text(GALLERY)
        (tmp_path / f"{name}_query.txt").write_text(QUERY)
    return read_ins_annotations(tmp_path, "INS_PRW")


def names(protocol: Protocol, images: np.ndarray) -> list[str]:
    return [protocol.image_names[i] for i in images]


def test_global_with_separate_cameras(annotations) -> None:
    protocol = annotation_protocol(PRESETS["ins_prw"], annotations)
    assert protocol.key == "ins_prw/global"
    first, second = protocol.queries
    assert names(protocol, first.gt_images) == ["c2s1_02"]
    assert names(protocol, first.ignored) == ["c1s1_01", "c1s1_03"]
    assert names(protocol, np.flatnonzero(protocol.counts(first))) == ["c1s1_04", "c2s1_02"]
    assert protocol.counts(first).dtype == bool
    assert names(protocol, second.gt_images) == ["c1s1_01", "c1s1_03"]
    assert protocol.skipped == {"1_0": 2}
    assert protocol.num_ground_truths == 3


def test_without_separate_cameras_the_key_says_so(annotations) -> None:
    rules = replace(PRESETS["ins_prw"], separate_cameras=False, min_height=1)
    protocol = annotation_protocol(rules, annotations)
    assert protocol.key == "ins_prw/global+all_cameras"
    assert names(protocol, protocol.queries[0].gt_images) == ["c1s1_03", "c2s1_02"]
    assert names(protocol, protocol.queries[0].ignored) == ["c1s1_01"]
    assert len(protocol.queries) == 3


def test_low_queries_are_left_out(annotations, caplog) -> None:
    """The box of query 1_0 is 2 pixels high."""
    rules = replace(PRESETS["ins_prw"], separate_cameras=False)
    with caplog.at_level("WARNING", logger="spil_d2"):
        for height, skipped in ((10, ["1_0"]), (3, ["1_0"]), (2, [])):
            protocol = annotation_protocol(replace(rules, min_height=height), annotations)
            assert list(protocol.skipped) == skipped
    what = "1 of 3 queries have no positive image, or a box below {} pixels, and are not judged"
    assert caplog.messages == [f"ins_prw: {what.format(10)}", f"ins_prw: {what.format(3)}"]


@pytest.mark.parametrize(
    ("preset", "change", "label", "expected"),
    [
        ("ins_prw", {}, None, "ins_prw/global"),
        ("ins_prw", {}, "global_5_images", "ins_prw/global_5_images"),
        ("ins_prw", {"gallery_range": "pos"}, "global_5_images", "ins_prw/pos"),
        ("ins_prw", {"separate_cameras": False}, None, "ins_prw/global+all_cameras"),
        ("prw", {"separate_cameras": True}, None, "prw/global+separate_cameras"),
        ("cuhk_sysu", {"keep_listed_query_image": True}, None, "cuhk_sysu/local+query_image"),
        (
            "ins_prw",
            {"separate_cameras": False, "keep_listed_query_image": True},
            "x",
            "ins_prw/x+all_cameras+query_image",
        ),
    ],
)
def test_the_key_tells_the_variant(preset, change: dict, label: str | None, expected: str) -> None:
    assert replace(PRESETS[preset], **change).key(label) == expected


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({}, "ab"),
        ({"keep_listed_query_image": True}, "abq"),
        ({"gallery_range": "global"}, "abx"),
        ({"gallery_range": "global", "keep_listed_query_image": True}, "abx"),
    ],
)
def test_the_querys_own_image_counts_only_where_a_local_list_may_hold_it(
    change: dict, counted: str
) -> None:
    truth = QueryTruth("0_0", 0, ("q",), 50.0, (("a", (0, 0, 1, 1)),), ("a", "b", "q"))
    ids = {name: i for i, name in enumerate("abqx")}
    protocol = build_protocol(replace(PRESETS["cuhk_sysu"], **change), ids, [truth])
    (query,) = protocol.queries
    assert "".join(names(protocol, np.flatnonzero(protocol.counts(query)))) == counted
    assert query.gt_boxes.dtype == np.float64


def test_a_query_may_come_from_outside_of_a_gallery_that_may_be_empty() -> None:
    truth = QueryTruth("0_0", 0, ("elsewhere",), 50.0, (("a", (0, 0, 1, 1)),))
    protocol = build_protocol(PRESETS["ins"], {"a": 0, "b": 1}, [truth])
    assert protocol.counts(protocol.queries[0]).tolist() == [True, True]
    nothing = build_protocol(PRESETS["ins"], {}, [])
    assert (nothing.image_ids.dtype, nothing.image_ids.shape) == (np.int64, (0,))


def test_a_local_range_counts_only_what_is_listed(annotations) -> None:
    lists = dict.fromkeys(("0_0", "0_1", "1_0"), ("c2s1_02", "c1s1_04"))
    listed = annotations.with_galleries(LocalGallery(lists))
    protocol = annotation_protocol(PRESETS["ins_cuhk_sysu"], listed)
    assert protocol.key == "ins_cuhk_sysu/local"
    query = protocol.queries[0]
    assert names(protocol, query.gt_images) == ["c2s1_02"]
    assert names(protocol, np.flatnonzero(protocol.counts(query))) == ["c1s1_04", "c2s1_02"]
    assert protocol.counts(query).dtype == bool
    assert "0_1" in protocol.skipped, "none of its positives is listed"


def test_positives_only_keeps_the_cameras_apart(annotations) -> None:
    protocol = annotation_protocol(PRESETS["ins_prw"], annotations).positives_only()
    assert protocol.key == "ins_prw/pos"
    assert protocol.rules == replace(PRESETS["ins_prw"], gallery_range="pos")
    assert names(protocol, np.flatnonzero(protocol.counts(protocol.queries[0]))) == ["c2s1_02"]
    rules = replace(PRESETS["ins_prw"], gallery_range="pos")
    direct = annotation_protocol(rules, annotations)
    assert direct.key == protocol.key
    for a, b in zip(direct.queries, protocol.queries, strict=True):
        assert np.array_equal(direct.counts(a), protocol.counts(b))


def test_a_local_range_needs_galleries(annotations) -> None:
    with pytest.raises(ValueError, match="query 0_0 has no local gallery"):
        annotation_protocol(PRESETS["ins_cuhk_sysu"], annotations)


def test_wrong_names_are_errors() -> None:
    truth = QueryTruth("0_0", 0, ("c1a",), 50.0, (("c2b", (0, 0, 1, 1)),))
    message = "query 0_0 names image 'c2b', which is none of the 1 images of the gallery"
    with pytest.raises(ValueError, match=f"^{message}$"):
        build_protocol(PRESETS["ins_prw"], {"c1a": 0}, [truth])
    listed = replace(truth, positives=(), gallery=("c1a", "c2b"))
    with pytest.raises(ValueError, match=f"^{message}$"):
        build_protocol(PRESETS["cuhk_sysu"], {"c1a": 0}, [listed])
    with pytest.raises(ValueError, match="same name"):
        build_protocol(PRESETS["ins_prw"], {"c1a": 0, "c2b": 1}, [truth, truth])


def test_read_protocol_marks_a_synthetic_gallery(annotations, tmp_path, caplog) -> None:
    with caplog.at_level("WARNING", logger="spil_d2"):
        made_up = read_protocol("ins_cuhk_sysu", tmp_path)
    label = "local_synthetic100_seed0"
    assert made_up.key == f"ins_cuhk_sysu/{label}"
    assert caplog.messages[0] == (
        f"ins_cuhk_sysu: the local galleries are made up ({label}); the numbers are not comparable "
        "with published ones"
    )
    (tmp_path / "local.txt").write_text("0 c2s1_02 c1s1_04\n1 c1s1_01\n")
    given = read_protocol("ins_cuhk_sysu", tmp_path, tmp_path / "local.txt")
    assert given.key == "ins_cuhk_sysu/local"


def test_read_protocol_takes_more_images(annotations, tmp_path) -> None:
    protocol = read_protocol("ins_prw", tmp_path, more_images=["c6s1_99.jpg"])
    assert protocol.key == "ins_prw/global_5_images"
    assert "c6s1_99" in protocol.image_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "no protocol 'nothing'; allowed"),
        (("ins_prw", "local.txt"), "takes no local gallery"),
        (("ins_cuhk_sysu", None, ["s1"]), "takes no further images"),
    ],
)
def test_what_a_protocol_does_not_take_is_refused(tmp_path, arguments, message: str) -> None:
    name, *others = arguments
    with pytest.raises(ValueError, match=message):
        read_protocol(name, tmp_path, *others)


@pytest.mark.parametrize(
    ("name", "queries", "pairs"), [("ins_prw", 1537, 19137), ("ins_cuhk_sysu", 6972, 9808)]
)
def test_the_official_files(name: str, queries: int, pairs: int) -> None:
    shared = find_shared()
    if shared is None or not (shared / "annotation").is_dir():
        pytest.skip("the official annotation files are not in the shared folder")
    protocol = read_protocol(name, shared / "annotation")
    assert len(protocol.queries) == queries
    assert protocol.num_ground_truths == pairs
    assert not protocol.skipped


def test_a_dataset_keeps_its_ids() -> None:
    dicts = [
        make_record(30, (5, (0, 0, 10, 10))),
        make_record(10, (5, (1, 1, 10, 10)), (5, (50, 50, 10, 10))),
        make_record(20, (6, (0, 0, 10, 10))),
    ]
    reference = Reference("30.jpg", 100, 100, (0, 0, 10, 10), 30)
    queries = [Query(4, (reference,), 5), Query(2, (reference,), None)]
    protocol = dataset_protocol(PRESETS["ins"], dicts, queries)
    assert protocol.key == "ins/global"
    assert protocol.image_names == ("10", "20", "30")
    assert protocol.image_ids.tolist() == [10, 20, 30]
    (query,) = protocol.queries
    assert (query.name, query.query_id) == ("4", 4)
    assert query.gt_images.tolist() == [0, 0]
    assert query.gt_boxes.tolist() == [[1, 1, 11, 11], [50, 50, 60, 60]]
    assert query.ignored.tolist() == [2]
    assert protocol.skipped == {"2": 2}


def test_a_dataset_can_be_local_and_have_names() -> None:
    dicts = [make_record(i, (5, (0, 0, 20, 20))) for i in (1, 2, 3)]
    reference = Reference("1.jpg", 100, 100, (0, 0, 20, 20), 1)
    protocol = dataset_protocol(
        PRESETS["cuhk_sysu"],
        dicts,
        [Query(4, (reference,), 5)],
        query_names={4: "5_0"},
        galleries={4: ("2",)},
        label="local_TestG50",
    )
    assert protocol.key == "cuhk_sysu/local_TestG50"
    assert protocol.queries[0].name == "5_0"
    assert protocol.queries[0].gt_images.tolist() == [1]


@pytest.mark.parametrize(("bottom", "is_judged"), [(49.5, False), (50.0, True)])
def test_a_query_is_as_high_as_its_box(bottom: float, is_judged: bool) -> None:
    dicts = [make_record(i, (5, (0, 0, 20, 20))) for i in (1, 2)]
    reference = Reference("1.jpg", 100, 100, (0, 40, 20, bottom), 1)
    protocol = dataset_protocol(
        PRESETS["cuhk_sysu"], dicts, [Query(4, (reference,), 5)], galleries={4: ("2",)}
    )
    assert len(protocol.queries) == is_judged


def test_two_images_of_one_name_are_refused() -> None:
    dicts = [make_record(1), make_record(2)]
    dicts[1]["file_name"] = "a/1.jpg"
    with pytest.raises(ValueError, match="pass image_root"):
        dataset_protocol(PRESETS["ins"], dicts, [])


def make_folder(root: Path) -> Path:
    """A folder in our own format: instance 5 in a.jpg and sub/b.png, asked for in a.jpg."""
    (root / "images" / "sub").mkdir(parents=True)
    images = []
    for i, name in enumerate(("a.jpg", "sub/b.png", "c.jpg"), start=1):
        Image.new("RGB", (40, 30)).save(root / "images" / name)
        images.append({"id": i, "file_name": name, "width": 40, "height": 30})
    boxes = [{"id": i, "image_id": i, "instance_id": 5, "bbox": [2, 3, 20, 20]} for i in (1, 2)]
    content = {"images": images, "annotations": boxes}
    (root / "annotations.json").write_text(json.dumps(content))
    query = {"id": 7, "file_name": "images/a.jpg", "width": 40, "height": 30, "image_id": 1}
    query |= {"instance_id": 5, "bbox": [2, 3, 20, 20]}
    (root / "queries.json").write_text(json.dumps([query]))
    return root


def test_our_own_folder(tmp_path: Path) -> None:
    protocol = read_protocol("ins", make_folder(tmp_path))
    assert protocol.key == "ins/global"
    assert protocol.image_names == ("a", "c", "sub/b.png")
    (query,) = protocol.queries
    assert query.name == "7"
    assert query.gt_images.tolist() == [2]
    assert query.gt_boxes.tolist() == [[2, 3, 22, 23]]
