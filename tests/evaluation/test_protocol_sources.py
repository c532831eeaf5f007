"""Where protocols are read from: the trees of PRW and CUHK-SYSU, and folders that do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.evaluation import protocol_sources, read_protocol

from ..data.test_person_search_annotations import make_cuhk_sysu, make_prw


def test_the_tree_of_prw_may_be_searched_with_more_images(tmp_path) -> None:
    protocol = read_protocol("prw", make_prw(tmp_path))
    assert protocol.key == "prw/global"
    assert protocol.image_names == ("c1s1_000151", "c1s1_000176", "c2s1_000001", "c3s1_000001")
    # Person 7 has one box.
    assert [query.name for query in protocol.queries] == ["479_0", "479_1"]
    assert protocol.skipped == {"7_0": 2}
    more = read_protocol("prw", tmp_path, more_images=["c6s1_99.jpg"])
    assert more.key == "prw/global_5_images"


def test_the_tree_of_cuhk_sysu_is_searched_in_the_galleries_of_its_queries(tmp_path) -> None:
    protocol = read_protocol("cuhk_sysu", make_cuhk_sysu(tmp_path))
    assert protocol.key.startswith("cuhk_sysu/local")
    searched = {
        query.query_id: [protocol.image_names[i] for i in query.searched]
        for query in protocol.queries
        if query.searched is not None
    }
    assert searched == {0: ["s2", "s3", "s4"], 1: ["s1", "s4"]}


def write_ins(folder: Path, query_image: str = "c1a") -> Path:
    (folder / "INS_PRW_gallery.txt").write_text(f"0 0 0 9 50 {query_image}\n0 0 0 9 50 c2b\n")
    (folder / "INS_PRW_query.txt").write_text(f"0 0 0 9 50 {query_image}\n")
    return folder


def test_no_galleries_are_made_up_for_a_search_of_all_images(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(protocol_sources, "synthetic_local_gallery", None)
    assert len(read_protocol("ins_prw", write_ins(tmp_path)).queries) == 1


def test_an_image_without_a_camera_names_the_folder(tmp_path) -> None:
    write_ins(tmp_path, "x1")
    with pytest.raises(DatasetError, match=f"^{re.escape(str(tmp_path))}: .*x1"):
        read_protocol("ins_prw", tmp_path)


def test_two_images_of_one_name_name_our_own_folder(tmp_path, caplog) -> None:
    (tmp_path / "images").mkdir()
    size = {"width": 40, "height": 30}
    images = [{"id": i, "file_name": name, **size} for i, name in enumerate(("a", "a.jpg"))]
    for image in images:
        (tmp_path / "images" / str(image["file_name"])).touch()
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "queries.json").write_text("[]")
    message = f"{tmp_path.resolve()}: 2 images have only 1 names"
    with caplog.at_level("INFO"), pytest.raises(DatasetError, match=f"^{re.escape(message)}"):
        read_protocol("ins", tmp_path)
    assert f"Loaded {tmp_path.name}: 2 images" in caplog.text
