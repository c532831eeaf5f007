"""The page over a real index, and how it is started."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from detectron2.structures import ImageList
from typer.testing import CliRunner

from spil_d2.cli import app
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine.folder_index import IndexSettings, index_folder
from spil_d2.engine.searcher import FEATURES, Searcher
from spil_d2.modeling import QueryRCNN
from spil_d2.web import server

from ..load.served import add_localizer


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("web") / "gallery"
    build_demo_gallery(root, num_instances=2, images_per_instance=4, num_distractors=2)
    return root


@pytest.fixture(scope="module")
def index_dir(gallery: Path) -> Path:
    settings = IndexSettings(opts=("SEARCH.LONGER_SIDE", "128"), num_workers=0)
    index_folder(gallery / "images", gallery.parent / "index", settings, progress=False)
    return gallery.parent / "index"


@pytest.fixture
def client(index_dir: Path, start_server: Callable[..., str]) -> Iterator[httpx.Client]:
    with Searcher.open(index_dir) as searcher:
        with httpx.Client(base_url=start_server(searcher), timeout=60) as one:
            yield one


def test_an_upload_finds_its_instance(client: httpx.Client, gallery: Path) -> None:
    queries = json.loads((gallery / "queries.json").read_text())
    query = next(one for one in queries if one["image_id"] is None)
    x, y, width, height = query["bbox"]
    data = (gallery / query["file_name"]).read_bytes()
    uploaded = client.post("/api/uploads", content=data).json()
    assert (uploaded["width"], uploaded["height"]) == (query["width"], query["height"])
    reference = {"upload": uploaded["upload"], "boxes": [[x, y, x + width, y + height]]}
    body = {"references": [reference], "k": 4}
    hits = client.post("/api/searches", json=body).json()["hits"]
    truth = json.loads((gallery / "annotations.json").read_text())
    names = {one["id"]: one["file_name"] for one in truth["images"]}
    relevant = {
        names[one["image_id"]]
        for one in truth["annotations"]
        if one["instance_id"] == query["instance_id"]
    }
    assert hits[0]["image"] in relevant
    for hit in hits:
        x0, y0, x1, y1 = hit["box"]
        assert 0 <= x0 < x1 <= hit["width"] and 0 <= y0 < y1 <= hit["height"]
        assert client.get(f"/api/pictures/{hit['image_id']}/320").status_code == 200


def test_a_picture_of_the_index_is_not_its_own_result(client: httpx.Client) -> None:
    pictures = client.get("/api/pictures").json()["pictures"]
    assert len(pictures) == client.get("/api/info").json()["images"] == 10
    wanted = pictures[0]["image_id"]
    answer = client.post("/api/searches", json={"references": [{"image_id": wanted}], "k": 50})
    ids = [hit["image_id"] for hit in answer.json()["hits"]]
    assert sorted([*ids, wanted]) == sorted(one["image_id"] for one in pictures)
    refined = client.get(f"/api/searches/{answer.json()['search_id']}/refined")
    assert refined.status_code == 422 and "spil-d2 adapt" in refined.json()["message"]


def test_serve(index_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        app = self.config.app
        seen.append((sockets[0].getsockname()[0], app.state.service.info()["images"]))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    server.serve(index_dir, "127.0.0.1", 0)
    assert seen == [("127.0.0.1", 10)]


def test_refining_can_keep_what_it_has_computed(
    index_dir: Path, start_server: Callable[..., str], monkeypatch, tmp_path: Path
) -> None:
    """The same boxes, and another query over the same pictures computes none of them again."""
    index = tmp_path / "index"
    shutil.copytree(index_dir, index)
    add_localizer(index, seed=0)
    computed = []
    encode = QueryRCNN.encode_gallery

    def noted(model: QueryRCNN, images: ImageList) -> dict:
        computed.append(images)
        return encode(model, images)

    monkeypatch.setattr(QueryRCNN, "encode_gallery", noted)

    def refined(client: httpx.Client, image_id: int) -> tuple[list[dict], int]:
        """Hits of the search with a picture, and how many maps were computed for them."""
        computed.clear()
        body = {"references": [{"image_id": image_id}], "k": 3, "excluded": [1, 2]}
        found = client.post("/api/searches", json=body).json()["search_id"]
        text = client.get(f"/api/searches/{found}/refined").text
        lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        return [json.loads(line)["hit"] for line in lines[:-1]], len(computed)

    def runs(cache_gb: float, *image_ids: int) -> list[tuple[list[dict], int]]:
        with Searcher.open(index, cache_gb) as searcher:
            with httpx.Client(base_url=start_server(searcher), timeout=60) as client:
                return [refined(client, one) for one in image_ids]

    ((plain, number),) = runs(0.0, 1)
    assert number == len(plain) == 3 and not (index / FEATURES).exists()
    (kept, first), (again, second), (other, third) = runs(0.1, 1, 1, 2)
    assert (first, second) == (3, 0) and again == kept
    new = {one["image_id"] for one in other} - {one["image_id"] for one in kept}
    assert third == len(new) < 3
    for one, two in zip(plain, kept):
        assert one["image_id"] == two["image_id"]
        assert one["box"] == pytest.approx(two["box"], abs=1.0)


def test_the_command_line_hands_on(index_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(server, "serve", lambda *given: asked.append(given))
    words = ["serve", str(index_dir), "--port", "0"]
    for more in ([], ["--cache-gb", "1.5"]):
        assert CliRunner().invoke(app, words + more).exit_code == 0
    assert asked == [(index_dir, "127.0.0.1", 0, 0.0), (index_dir, "127.0.0.1", 0, 1.5)]


def test_serve_says_what_is_wrong(index_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no index"):
        server.serve(tmp_path, "127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError):
            server.serve(index_dir, "127.0.0.1", taken.getsockname()[1])
