"""The annotation files of INS-PRW and INS-CUHK-SYSU: counts of the real ones, errors, galleries."""

from __future__ import annotations

from pathlib import Path

import pytest

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.ins_annotations import (
    SearchAnnotations,
    camera_of,
    image_key,
    read_ins_annotations,
)
from spil_d2.data.datasets.local_gallery import read_local_gallery, synthetic_local_gallery
from spil_d2.utils.shared import find_shared

GALLERY = """\
0 10 20 30 40 c1s1_01
0 10 20 30 40 c2s1_02.jpg
0 5 5 9 9 c1s1_03
1 1 2 3 4 c1s1_01
1 1 2 3 4 c3s1_04
"""
QUERY = """\
0 10 20 30 40 c1s1_01
0 10 20 30 40 c2s1_02
1 1 2 3 4 c3s1_04
"""


def _write(folder: Path, gallery: str = GALLERY, query: str = QUERY) -> Path:
    (folder / "INS_PRW_gallery.txt").write_text(gallery)
    (folder / "INS_PRW_query.txt").write_text(query)
    return folder


def _read(folder: Path, gallery: str = GALLERY, query: str = QUERY) -> SearchAnnotations:
    return read_ins_annotations(_write(folder, gallery, query), "INS_PRW")


def _official(name: str) -> SearchAnnotations:
    shared = find_shared()
    if shared is None or not (shared / "annotation" / f"{name}_gallery.txt").is_file():
        pytest.skip("the official annotation files are not in the shared folder")
    return read_ins_annotations(shared / "annotation", name)


@pytest.mark.parametrize(
    ("name", "queries", "identities", "images", "boxes"),
    [("INS_PRW", 1537, 535, 6079, 7834), ("INS_CUHK_SYSU", 6972, 6972, 9648, 16780)],
)
def test_the_official_files_hold_what_the_paper_counts(
    name: str, queries: int, identities: int, images: int, boxes: int
) -> None:
    found = _official(name)
    assert len(found.queries) == queries
    assert len(found.identities) == identities
    assert len(found.image_names) == images
    assert len(found.boxes) == boxes


def test_ins_prw_has_one_query_an_id_and_camera_and_its_cross_camera_pairs() -> None:
    found = _official("INS_PRW")
    assert len({(query.identity, camera_of(query.image)) for query in found.queries}) == 1537
    pairs = [
        (camera_of(query.image), camera_of(one.image))
        for query in found.queries
        for one in found.positives(query)
    ]
    assert len(pairs) == 25434
    assert sum(a != b for a, b in pairs) == 19137


def test_ins_cuhk_sysu_has_9808_pairs() -> None:
    found = _official("INS_CUHK_SYSU")
    assert sum(len(found.positives(query)) for query in found.queries) == 9808


def test_queries_are_numbered_within_their_id(tmp_path) -> None:
    found = _read(tmp_path)
    assert [query.name for query in found.queries] == ["0_0", "0_1", "1_0"]
    assert found.image_names == ("c1s1_01", "c1s1_03", "c2s1_02", "c3s1_04")


def test_positives_are_the_boxes_of_the_id_outside_the_querys_image(tmp_path) -> None:
    found = _read(tmp_path)
    assert [one.image for one in found.positives(found.queries[0])] == ["c2s1_02", "c1s1_03"]
    assert [one.image for one in found.positives(found.queries[1])] == ["c1s1_01", "c1s1_03"]
    assert found.positives(found.queries[2])[0].box == (1, 2, 3, 4)


def test_names_come_with_and_without_extension() -> None:
    assert image_key("c1s1_01.jpg") == image_key("c1s1_01") == "c1s1_01"
    assert camera_of("c6s2_1") == 6
    with pytest.raises(DatasetError, match="s18204"):
        camera_of("s18204")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 1 2 3 4", "5 fields"),
        ("0 1 2 3 4 a b", "7 fields"),
        ("", "0 fields"),
        ("0 1 2.5 3 4 a", "integers.*2.5"),
        ("x 1 2 3 4 a", "integers"),
        ("-1 1 2 3 4 a", "IDs start at 0"),
        ("0 3 2 1 4 a", "inverted"),
        ("0 1 2 3 2 a", "inverted or empty"),
        ("0 10 20 30 40 c1s1_01", "repeats line 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line: str, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"INS_PRW_gallery\.txt:6: .*{message}"):
        _read(tmp_path, GALLERY + line + "\n")


def test_a_query_of_an_unknown_id_is_named(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"INS_PRW_query\.txt:4: ID 7"):
        _read(tmp_path, query=QUERY + "7 1 2 3 4 c1s1_01\n")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"INS_PRW_gallery\.txt"):
        read_ins_annotations(tmp_path, "INS_PRW")


def test_boxes_are_clipped_where_sizes_are_known(tmp_path) -> None:
    found = _read(tmp_path, "0 1 2 30 41 a\n0 1 2 30 41 b\n", "0 1 2 30 41 a\n")
    clipped = found.clipped({"a": (20, 40)})
    assert [one.box for one in clipped.boxes] == [(1, 2, 20, 40), (1, 2, 30, 41)]
    assert clipped.queries[0].box == (1, 2, 20, 40)
    with pytest.raises(DatasetError, match="outside b of 1x5"):
        found.clipped({"b": (1, 5)})


def test_more_images_change_the_label(tmp_path) -> None:
    found = _read(tmp_path).with_images(["c1s9_99.jpg", "c1s1_01"])
    assert found.image_names[-2:] == ("c2s1_02", "c3s1_04")
    assert "c1s9_99" in found.image_names
    assert found.label == "global_5_images"


@pytest.mark.parametrize(
    "text",
    [
        "0 c1s1_01 c1s1_03.jpg\n1 c3s1_04\n",
        "0 c1s1_01\n1 c3s1_04\n0 c1s1_03\n0 c1s1_01\n",
        "0 1 2 3 4 c1s1_01\n0 5 6 7 8 c1s1_03\n1 1 2 3 4 c3s1_04\n",
    ],
)
def test_local_galleries_come_in_three_shapes(tmp_path, text: str) -> None:
    annotations = _read(tmp_path)
    (tmp_path / "local.txt").write_text(text)
    found = read_local_gallery(tmp_path / "local.txt", annotations)
    assert found.images == {
        "0_0": ("c1s1_01", "c1s1_03"),
        "0_1": ("c1s1_01", "c1s1_03"),
        "1_0": ("c3s1_04",),
    }
    assert found.label == "local"
    assert found.is_comparable


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 c1s1_01\n", "no image for 1 of 2 IDs.*ID 1"),
        ("0 c1s1_01\n7 c1s1_01\n", r"local\.txt:2: ID 7 has"),
        ("0 c1s1_01\n1 nowhere\n", r"local\.txt:2: image 'nowhere'"),
        ("0\n", r"local\.txt:1: 1 fields"),
        ("a c1s1_01\n", r"local\.txt:1: IDs must be integers, found 'a'"),
    ],
)
def test_a_wrong_local_gallery_is_named(tmp_path, text: str, message: str) -> None:
    annotations = _read(tmp_path)
    (tmp_path / "local.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_local_gallery(tmp_path / "local.txt", annotations)


def _many(folder: Path) -> SearchAnnotations:
    gallery = "".join(f"{i // 2} 1 2 3 4 s{i}\n" for i in range(60))
    return _read(folder, gallery, "".join(f"{i} 1 2 3 4 s{2 * i}\n" for i in range(30)))


def test_a_synthetic_gallery_is_fixed_and_marked(tmp_path) -> None:
    annotations = _many(tmp_path)
    found = synthetic_local_gallery(annotations, size=10)
    assert found.images == synthetic_local_gallery(annotations, size=10).images
    assert found.images != synthetic_local_gallery(annotations, size=10, seed=1).images
    assert not found.is_comparable
    assert found.label == "local_synthetic10_seed0"
    for query in annotations.queries:
        names = found.images[query.name]
        assert len(names) == len(set(names)) == 10
        assert names[0] == annotations.positives(query)[0].image
        assert query.image not in names
    assert len({names[1:] for names in found.images.values()}) == 30


def test_a_synthetic_gallery_ends_with_the_images(tmp_path) -> None:
    found = synthetic_local_gallery(_many(tmp_path), size=1000)
    assert {len(names) for names in found.images.values()} == {59}
