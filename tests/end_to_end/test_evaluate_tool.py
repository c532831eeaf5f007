"""tools/evaluate.py: tables, files and errors of every protocol."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ..programs import load_tool, restored_loggers

GALLERY = """\
0 10 20 30 40 c1s1_01
0 10 20 60 80 c2s1_02
0 5 5 90 90 c3s1_03
1 1 2 30 40 c1s1_01
1 1 2 30 40 c2s1_04
"""
QUERY = "0 10 20 30 40 c1s1_01\n1 1 2 30 40 c2s1_04\n"
RECORDS = [
    {"query": "0_0", "image": "c2s1_02", "bbox": [10, 20, 60, 80], "score": 0.9},
    {"query": "0_0", "image": "c1s1_01.jpg", "bbox": [10, 20, 30, 40], "score": 0.8},
    {"query": "0_0", "image": "c2s1_04", "bbox": [10, 20, 30, 40], "score": 0.7},
    {"query": "0_0", "image": "c3s1_03", "bbox": [5, 5, 90, 90], "score": 0.6},
    {"query": "1_0", "image": "c3s1_03", "bbox": [5, 5, 90, 90], "score": 0.6},
    {"query": "1_0", "image": "c1s1_01", "bbox": [1, 2, 30, 40], "score": 0.5},
]
MAP = 100 * ((1 + 2 / 3) / 2 + 1 / 2) / 2


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("INS_PRW", "INS_CUHK_SYSU"):
        (tmp_path / f"{name}_gallery.txt").write_text(GALLERY)
        (tmp_path / f"{name}_query.txt").write_text(QUERY)
    (tmp_path / "found.json").write_text(json.dumps(RECORDS))
    return tmp_path


def evaluate(folder: Path, protocol: str, *more: object, predictions: str = "found.json"):
    arguments = ["--protocol", protocol, "--annotations", str(folder)]
    arguments += ["--predictions", str(folder / predictions), *map(str, more)]
    with restored_loggers():
        return load_tool("evaluate").main(arguments)


def test_predictions_are_judged_printed_and_written(folder, capsys) -> None:
    (folder / "person.txt").write_text("0\n")
    more = ["--output", folder / "out" / "OUT.json", "--plots", folder / "plots"]
    evaluate(folder, "ins_prw", *more, "--subset", folder / "person.txt")
    printed = capsys.readouterr().out
    assert f"{MAP:.2f}" in printed
    assert "mAP_retrieval@IoU0.5" in printed
    written = json.loads((folder / "out" / "OUT.json").read_text())
    metrics = written["metrics"]
    assert metrics["ins_prw/global/mAP_retrieval@IoU0.5"] == pytest.approx(MAP)
    assert metrics["ins_prw/global/rank-1@IoU0.5"] == 50
    assert metrics["ins_prw/global/subset_person/rank-1@IoU0.5"] == 100
    assert written["per_query"]["1_0"]["AP_retrieval"] == 50
    picture = (folder / "plots" / "precision_recall_ins_prw_global.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_npz_says_the_same(folder) -> None:
    queries, query = np.unique([r["query"] for r in RECORDS], return_inverse=True)
    images, image = np.unique([r["image"] for r in RECORDS], return_inverse=True)
    np.savez(
        folder / "found.npz",
        query=query,
        image=image,
        query_names=queries,
        image_names=images,
        bbox=np.array([r["bbox"] for r in RECORDS], np.float32),
        score=np.array([r["score"] for r in RECORDS], np.float32),
    )
    from_npz = evaluate(folder, "ins_prw", predictions="found.npz").metrics()
    assert from_npz == evaluate(folder, "ins_prw").metrics()


def test_local_galleries_are_read_or_made_up(folder) -> None:
    made_up = evaluate(folder, "ins_cuhk_sysu")
    assert made_up.protocol.key == "ins_cuhk_sysu/local_synthetic100_seed0"
    (folder / "local.txt").write_text("0 c2s1_02 c3s1_03\n1 c1s1_01\n")
    given = evaluate(folder, "ins_cuhk_sysu", "--local-gallery", folder / "local.txt")
    assert given.metrics()["ins_cuhk_sysu/local/mAP_retrieval@IoU0.5"] == 100


def test_more_images_can_be_searched(folder, capsys) -> None:
    more = {"query": "0_0", "image": "c6s1_99", "bbox": [0, 0, 9, 9], "score": 1}
    (folder / "found.json").write_text(json.dumps([*RECORDS, more]))
    with pytest.raises(SystemExit):
        evaluate(folder, "ins_prw")
    assert "record 6: image 'c6s1_99'" in capsys.readouterr().err
    (folder / "more.txt").write_text("c6s1_99.jpg\n")
    report = evaluate(folder, "ins_prw", "--more-images", folder / "more.txt")
    assert report.protocol.key == "ins_prw/global_5_images"
    assert report.metrics()["ins_prw/global_5_images/rank-1@IoU0.5"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "record 5 .*the score is not a finite number"),
        ({"query": "5_5"}, "record 5: query '5_5'"),
        ({"bbox": [9, 9, 0, 0]}, "record 5 .*inverted"),
    ],
)
def test_a_wrong_record_ends_it_with_a_message(folder, capsys, change: dict, message: str) -> None:
    (folder / "found.json").write_text(json.dumps([*RECORDS[:5], RECORDS[5] | change]))
    with pytest.raises(SystemExit) as raised:
        evaluate(folder, "ins_prw")
    assert raised.value.code == 1
    assert re.search(message, capsys.readouterr().err)


def test_missing_files_end_it_with_a_message(folder, capsys) -> None:
    with pytest.raises(SystemExit):
        evaluate(folder / "nowhere", "ins_prw")
    assert "INS_PRW_gallery.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluate(folder, "ins_prw", predictions="none.json")
    assert "none.json" in capsys.readouterr().err
