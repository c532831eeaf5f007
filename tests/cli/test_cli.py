"""The command line: what it prints, writes, and exits with."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from spil_d2 import __version__
from spil_d2.cli import app
from spil_d2.cli.options import pair_boxes, parse_box, read_query_file
from spil_d2.data.datasets.instance_search import load_queries
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine import adapt as adapt_module
from spil_d2.engine.searcher import Searcher

ROOT = Path(__file__).parents[2]
INSTANT = ROOT / "configs/quick_schedules/spil_tiny_instant_test.yaml"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder, index and one query (file and box) of a demo gallery with a damaged picture."""
    root = tmp_path_factory.mktemp("cli")
    build_demo_gallery(root / "gallery", num_instances=2, images_per_instance=4, num_distractors=2)
    shutil.copytree(root / "gallery/images", root / "photos")
    (root / "photos/broken.jpg").write_bytes(b"broken")
    result = run(
        "index", root / "photos", "--out", root / "index", "--config-file", INSTANT, "--workers", 0
    )
    assert result.exit_code == 0, result.output
    query = load_queries(root / "gallery")[0].primary
    box = ",".join(str(value) for value in query.box)
    return root / "photos", root / "index", query.file_name, box, result


def test_indexing_says_what_it_did(demo) -> None:
    photos, index, _, _, first = demo
    assert "10 pictures, 190 regions; 10 came, 0 left, 1 cannot be read" in first.stdout
    assert "unreadable: broken.jpg: its content is of no known picture format" in first.stderr
    again = run("index", photos, "--out", index, "--workers", 0)
    assert again.exit_code == 0 and "0 came, 0 left" in again.stdout


def test_search_prints_a_table(demo) -> None:
    _, index, file_name, box, _ = demo
    result = run("search", index, "--query", file_name, "--box", box, "-k", 3)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["rank", "score", "similarity", "box", "image"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]


def test_search_writes_every_format_at_once(demo, tmp_path) -> None:
    photos, index, file_name, box, _ = demo
    outputs = {name: tmp_path / f"hits.{name}" for name in ("json", "coco", "csv", "html")}
    options = [part for name, path in outputs.items() for part in (f"--{name}", path)]
    result = run("search", index, "--query", file_name, "--box", box, "-k", 4, *options)
    assert result.exit_code == 0 and result.stdout == ""
    hits = json.loads(outputs["json"].read_text())
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    for hit in hits:
        assert set(hit) == {"image", "box", "score", "similarity", "rank"}
        assert (photos / hit["image"]).is_file() and len(hit["box"]) == 4
        assert 0 <= hit["score"] <= 1 and -1 <= hit["similarity"] <= 1
    assert len(json.loads(outputs["coco"].read_text())["annotations"]) == 4
    assert len(outputs["csv"].read_text().splitlines()) == 5
    assert outputs["html"].read_text().count("<img") == 5


def test_json_goes_to_stdout(demo) -> None:
    _, index, file_name, box, _ = demo
    options = ["--query", file_name, "--box", box, "--query", file_name, "--box", box]
    result = run("search", index, *options, "--combine", "max", "--json", "-", "-k", 2)
    assert len(json.loads(result.stdout)) == 2


def test_low_scores_are_left_out(demo) -> None:
    _, index, file_name, box, _ = demo
    options = ["--query", file_name, "--box", box]
    everything = json.loads(run("search", index, *options, "--json", "-").stdout)
    limit = everything[2]["score"] + 1e-9
    kept = run("search", index, *options, "--json", "-", "--min-score", limit)
    assert len(json.loads(kept.stdout)) in (2, 3)
    none = run("search", index, *options, "--min-score", 1.0)
    assert none.exit_code == 0 and "Nothing was found" in none.stdout


def test_a_cache_is_written_only_where_it_is_asked_for(demo, monkeypatch) -> None:
    _, index, file_name, box, _ = demo
    asked, open_index = [], Searcher.open

    def open_noted(place, cache_gb=0.0):
        asked.append(cache_gb)
        return open_index(place, cache_gb)

    monkeypatch.setattr(Searcher, "open", open_noted)
    options = ("search", index, "--query", file_name, "--box", box)
    assert run(*options).exit_code == run(*options, "--cache-gb", 1.5).exit_code == 0
    assert asked == [0.0, 1.5]
    assert run(*options, "--cache-gb", -1).exit_code == 2


def test_info(demo) -> None:
    _, index, _, _, _ = demo
    result = run("info", index)
    assert (
        result.exit_code == 0
        and "spil_tiny_instant_test" in result.stdout
        and "broken.jpg" in result.stderr
    )
    info = json.loads(run("info", index, "--json").stdout)
    assert info["images"] == 10 and [one["image"] for one in info["unreadable"]] == ["broken.jpg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a picture of the instance is needed"),
        (("--query", "{query}", "--box", "1,2,3"), "'1,2,3' is not x0,y0,x1,y1"),
        (("--query", "{query}", "--box", "0,0,9999,50"), "reaches outside: 0 <= x <= 400"),
        (("--query", "{query}", "--box", "50,50,20,90"), "out of order"),
        (
            ("--query", "{query}", "--query", "{query}", "--box", "1,2,3,4", "--box", "1,2,3,4")
            + ("--box", "1,2,3,4"),
            "3 boxes for 2 pictures",
        ),
        (("--query", "{query}", "-k", "0"), "Invalid value for '-k'"),
        (("--query", "{query}", "--combine", "median"), "median"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_a_senseless_command_exits_with_2(demo, arguments, message) -> None:
    _, index, file_name, _, _ = demo
    result = run("search", index, *(one.format(query=file_name) for one in arguments))
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_job_that_fails_exits_with_1(demo, tmp_path) -> None:
    photos, index, file_name, box, _ = demo
    query = ("--query", file_name, "--box", box)
    (tmp_path / "bad.jpg").write_bytes(b"")
    for arguments, message in (
        (("search", tmp_path, *query), "is no index"),
        (("search", index, "--query", tmp_path / "bad.jpg"), "the file is empty"),
        (("search", index, *query, "--refine"), "spil-d2 adapt"),
        (("search", index, *query, "--json", tmp_path / "no/such/folder.json"), "No such file"),
        (("info", tmp_path), "is no index"),
        (("index", tmp_path / "nowhere", "--out", tmp_path / "new"), "is no folder"),
        (("index", photos, "--out", index, "--engine", "Oracle"), "there is no engine"),
        (("index", photos, "--out", index, "--backend", "oracle"), "there is no backend"),
        (("serve", tmp_path), "is no index"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        assert result.stderr.splitlines()[-1].startswith("Error: ") and message in result.stderr


def test_export_says_what_is_missing(demo, monkeypatch) -> None:
    _, index, file_name, box, _ = demo
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    result = run("export", index, "--query", file_name, "--box", box)
    assert result.exit_code == 1 and "pip install fiftyone" in result.stderr


@pytest.mark.parametrize(
    "command", ["index", "search", "info", "adapt", "fewshot", "export", "serve"]
)
def test_every_command_teaches_by_example(command) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.stdout and f"spil-d2 {command} " in result.stdout


def test_the_whole_is_explained() -> None:
    result = run("--help")
    assert result.exit_code == 0 and "Exit codes: 0 done, 1 the job failed, 2" in result.stdout
    assert run("--version").stdout == f"spil-d2 {__version__}\n"


def test_adapt_takes_one_instance_or_many(demo, monkeypatch, tmp_path) -> None:
    _, index, file_name, box, _ = demo
    seen = []

    def pretend(place, queries, settings):
        seen.append([[len(one.boxes) for one in references] for references in queries])
        return place / "localizer"

    monkeypatch.setattr(adapt_module, "adapt", pretend)
    assert run("adapt", index, "--query", file_name, "--box", box).exit_code == 0
    shutil.copy(file_name, tmp_path / "q.jpg")
    entry = {"image": "q.jpg", "box": [float(one) for one in box.split(",")]}
    (tmp_path / "queries.json").write_text(json.dumps([entry, [entry, entry]]))
    assert run("adapt", index, "--queries", tmp_path / "queries.json").exit_code == 0
    assert seen == [[[1]], [[1], [1, 1]]]
    assert run("adapt", index).exit_code == 2
    both = run("adapt", index, "--query", file_name, "--queries", tmp_path / "queries.json")
    assert both.exit_code == 2


def test_boxes_and_pictures_are_paired() -> None:
    a, b = Path("a"), Path("b")
    assert parse_box("1,2.5,3,4") == (1, 2.5, 3, 4)
    assert pair_boxes([a], ["1,2,3,4", "5,6,7,8"]) == [(a, [(1, 2, 3, 4), (5, 6, 7, 8)])]
    assert pair_boxes([a, b], ["1,2,3,4", "5,6,7,8"]) == [(a, [(1, 2, 3, 4)]), (b, [(5, 6, 7, 8)])]
    assert pair_boxes([a, b], None) == [(a, []), (b, [])]


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '[{"image": "a.jpg"}]', '[{"image": "a", "box": [1]}]', "[[3]]"]
)
def test_a_bad_file_of_queries_is_named(tmp_path, content) -> None:
    path = tmp_path / "queries.json"
    path.write_text(content)
    with pytest.raises(Exception, match=r"queries\.json"):
        read_query_file(path)


def test_a_picture_of_the_index_may_be_the_query(demo) -> None:
    photos, index, _, _, _ = demo
    path = sorted(photos.glob("*.jpg"))[0]
    with Image.open(path) as image:
        width, height = image.size
    result = run("search", index, "--query", path, "--box", f"0,0,{width},{height}", "--json", "-")
    assert path.name not in {hit["image"] for hit in json.loads(result.stdout)}
