"""What the server answers: searches, pictures, refined boxes, errors; and ten clients at once."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from spil_d2.web.schemas import outline

RED = [30, 20, 70, 60]


def upload(client: httpx.Client, data: bytes) -> str:
    answer = client.post("/api/uploads", content=data)
    assert answer.status_code == 201
    return answer.json()["upload"]


def search(client: httpx.Client, *references: dict, **options: object) -> dict:
    answer = client.post("/api/searches", json={"references": list(references), **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client: httpx.Client, search_id: str) -> list[tuple[str, dict]]:
    text = client.get(f"/api/searches/{search_id}/refined").text
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_info(client: httpx.Client) -> None:
    info = client.get("/api/info").json()
    assert info["images"] == 12 and info["can_refine"] is True
    assert info["limits"]["bytes"] == 25 * 2**20


def test_search_with_an_upload(client: httpx.Client, red_square: bytes) -> None:
    answer = search(client, {"upload": upload(client, red_square), "boxes": [RED]}, k=3)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    # Ids that leave 0 modulo 4 have red squares.
    assert [hit["image_id"] for hit in answer["hits"]] == [4, 8, 12]
    first = answer["hits"][0]
    assert first["image"] == "photos/004.png"
    assert (first["width"], first["height"]) == (160, 120)
    assert first["box"] == [22, 28, 62, 68]
    assert 0 < first["score"] <= 1 and -1 <= first["similarity"] <= 1


def test_search_with_pictures_of_the_index(client: httpx.Client, searcher) -> None:
    references = [
        {"image_id": 4, "boxes": [[22, 28, 62, 68]]},
        {"image_id": 5, "boxes": [[25, 30, 65, 70], [26, 31, 60, 60]]},
    ]
    answer = search(client, *references, combine="max", excluded=[8], k=4)
    assert searcher.calls[-1] == {
        "k": 4,
        "combine": "max",
        "excluded": {8},
        "references": [
            (4, ((22, 28, 62, 68),)),
            (5, ((25, 30, 65, 70), (26, 31, 60, 60))),
        ],
    }
    assert not {4, 5, 8} & {hit["image_id"] for hit in answer["hits"]}


def test_without_a_box_the_whole_picture_is_meant(client: httpx.Client, searcher) -> None:
    search(client, {"image_id": 3})
    assert searcher.calls[-1]["references"] == [(3, ((0, 0, 120, 160),))]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"references": []}, "references"),
        ({"references": [{}]}, "either an image_id or an upload"),
        ({"references": [{"image_id": 1, "upload": "a"}]}, "either an image_id or an upload"),
        ({"references": [{"image_id": 99}]}, "the index has no picture 99"),
        ({"references": [{"upload": "none"}]}, "choose it once more"),
        ({"references": [{"image_id": 1, "boxes": [[5, 5, 5, 9]]}]}, "box 5,5,5,9 is empty"),
        (
            {"references": [{"image_id": 1, "boxes": [[0, 0, 121, 9]]}]},
            "the picture has 120x160 pixels",
        ),
        ({"references": [{"image_id": 1, "boxes": [[0, 0, 9]]}]}, "boxes.0"),
        ({"references": [{"image_id": 1, "boxes": [["x", 0, 9, 9]]}]}, "boxes.0.0"),
        ({"references": [{"image_id": 1, "boxes": [[0, 0, 9, 9]] * 33}]}, "32 are the most"),
        ({"references": [{"image_id": 1}] * 17}, "16 are the most"),
        ({"references": [{"image_id": 1}], "k": 0}, "k"),
        ({"references": [{"image_id": 1}], "k": 1001}, "1000 are the most"),
        ({"references": [{"image_id": 1}], "combine": "min"}, "combine"),
        ({"references": [{"image_id": 1}], "folder": "/etc"}, "folder"),
        ("text", "not understood"),
    ],
)
def test_bad_queries_are_explained(client: httpx.Client, body: object, message: str) -> None:
    answer = client.post("/api/searches", json=body)
    assert answer.status_code in (404, 422)
    assert re.search(message, answer.json()["message"])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_boxes_are_finite(client: httpx.Client, number: str) -> None:
    body = f'{{"references": [{{"image_id": 1, "boxes": [[0, 0, {number}, 9]]}}]}}'
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/searches", content=body, headers=headers)
    assert answer.status_code == 422 and "finite" in answer.json()["message"]


def test_large_bodies_are_not_read(
    searcher, red_square: bytes, start_server: Callable[..., str]
) -> None:
    address = start_server(searcher, max_upload_bytes=len(red_square))
    with httpx.Client(base_url=address) as client:
        assert client.post("/api/uploads", content=red_square).status_code == 201
        answer = client.post("/api/uploads", content=red_square + b"x")
        assert answer.status_code == 413 and "larger than" in answer.json()["message"]
        answer = client.post("/api/searches", content=b"[" * (3 * 2**20))
        assert answer.status_code == 413


def test_what_is_no_picture_is_refused(client: httpx.Client) -> None:
    answer = client.post("/api/uploads", content=b"no picture")
    assert answer.status_code == 422
    assert "choose a JPEG, PNG" in answer.json()["message"]


def test_pictures_are_shrunk_and_cached(client: httpx.Client, searcher) -> None:
    pixels = np.zeros((900, 1600, 3), np.uint8)
    pixels[:, 800:] = 255
    Image.fromarray(pixels).save(searcher.paths[2])
    answer = client.get("/api/pictures/2/320")
    assert answer.headers["content-type"] == "image/jpeg"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (320, 180)
    assert picture.getpixel((40, 90))[0] < 10 and picture.getpixel((280, 90))[0] > 245
    again = client.get("/api/pictures/2/320", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content
    # A small picture is not enlarged, and a changed file is another picture.
    Image.fromarray(pixels[:50, :70]).save(searcher.paths[2])
    changed = client.get("/api/pictures/2/320", headers={"If-None-Match": answer.headers["etag"]})
    assert Image.open(io.BytesIO(changed.content)).size == (70, 50)


def test_uploads_are_shown(client: httpx.Client, red_square: bytes) -> None:
    token = upload(client, red_square)
    answer = client.get(f"/api/uploads/{token}/1280")
    assert Image.open(io.BytesIO(answer.content)).size == (100, 80)
    assert client.get("/api/uploads/unknown/1280").status_code == 404


def test_pictures_to_choose_from(client: httpx.Client) -> None:
    page = client.get("/api/pictures", params={"offset": 4, "limit": 3}).json()
    assert page["total"] == 12
    assert [one["image"] for one in page["pictures"]] == [
        "photos/005.png",
        "photos/006.png",
        "photos/007.png",
    ]
    assert page["pictures"][0] == {
        "image_id": 5,
        "image": "photos/005.png",
        "width": 120,
        "height": 160,
    }
    named = client.get("/api/pictures", params={"name": "PHOTOS/01"}).json()
    assert [one["image_id"] for one in named["pictures"]] == [10, 11, 12]


def test_a_lost_file_does_not_spoil_the_rest(client: httpx.Client, searcher) -> None:
    searcher.paths[8].unlink()
    found = search(client, {"image_id": 4, "boxes": [[22, 28, 62, 68]]})["hits"]
    assert 8 in [hit["image_id"] for hit in found]
    answer = client.get("/api/pictures/8/320")
    assert answer.status_code == 422 and "run `spil-d2 index`" in answer.json()["message"]
    assert str(searcher.paths[8].parent) not in answer.text
    answer = client.post("/api/searches", json={"references": [{"image_id": 8}]})
    assert answer.status_code == 422 and "run `spil-d2 index`" in answer.json()["message"]


def test_refined_hits_come_one_by_one(client: httpx.Client) -> None:
    answer = search(client, {"image_id": 4, "boxes": [[22, 28, 62, 68]]}, k=3)
    found = events(client, answer["search_id"])
    assert [name for name, _ in found] == ["hit", "hit", "hit", "done"]
    assert [data["done"] for _, data in found[:3]] == [1, 2, 3]
    assert {data["total"] for _, data in found} == {3}
    first, before = found[0][1]["hit"], answer["hits"][0]
    assert first["image_id"] == before["image_id"]
    x0, y0, x1, y1 = before["box"]
    assert first["box"] == [x0 + 2, y0 + 2, x1 - 2, y1 - 2]
    assert coco_mask.area(first["mask"]) == 36 * 36
    assert sorted(zip(first["outline"][0][::2], first["outline"][0][1::2])) == [
        (x0 + 2, y0 + 2),
        (x0 + 2, y1 - 3),
        (x1 - 3, y0 + 2),
        (x1 - 3, y1 - 3),
    ]


def test_refining_an_old_search(searcher, start_server: Callable[..., str]) -> None:
    with httpx.Client(base_url=start_server(searcher, max_searches=1)) as client:
        first = search(client, {"image_id": 1})["search_id"]
        search(client, {"image_id": 2})
        answer = client.get(f"/api/searches/{first}/refined")
        assert answer.status_code == 404 and "search again" in answer.json()["message"]


def test_an_index_that_was_not_adapted(searcher, client: httpx.Client) -> None:
    searcher.can_refine = False
    found = search(client, {"image_id": 1})
    answer = client.get(f"/api/searches/{found['search_id']}/refined")
    assert answer.status_code == 422 and "spil-d2 adapt" in answer.json()["message"]


def test_a_failure_says_where_to_look(client, searcher, monkeypatch, caplog) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(searcher, "search", fail)
    answer = client.post("/api/searches", json={"references": [{"image_id": 1}]})
    assert answer.status_code == 500
    assert answer.json() == {"message": "the server failed: its log says why"}
    assert "secret of the server" in caplog.text


def test_outline_of_a_ring() -> None:
    mask = np.zeros((12, 12), np.uint8, order="F")
    mask[1:11, 1:11] = 1
    mask[4:8, 4:8] = 0
    assert len(outline(coco_mask.encode(mask))) == 2


def test_ten_clients_at_once(searcher, red_square: bytes, start_server: Callable[..., str]) -> None:
    """Everyone gets their own answer, the model runs once at a time, pictures come meanwhile."""
    address = start_server(searcher)
    searcher.delay = 0.02
    gate = threading.Barrier(10)

    def one(number: int) -> list[int]:
        wanted = number % 12 + 1
        with httpx.Client(base_url=address, timeout=30) as client:
            gate.wait()
            token = upload(client, red_square)
            assert client.get(f"/api/uploads/{token}/320").status_code == 200
            found = search(client, {"image_id": wanted}, k=5)
            refined = [
                data["hit"]["image_id"]
                for name, data in events(client, found["search_id"])
                if name == "hit"
            ]
            assert refined == [hit["image_id"] for hit in found["hits"]]
            for hit in found["hits"]:
                assert client.get(f"/api/pictures/{hit['image_id']}/320").status_code == 200
            return refined

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(one, range(10)))
    assert searcher.most_running == 1
    with httpx.Client(base_url=address) as client:
        for number, answer in enumerate(answers):
            alone = search(client, {"image_id": number % 12 + 1}, k=5)["hits"]
            assert answer == [hit["image_id"] for hit in alone]


def test_pictures_do_not_wait_for_a_search(searcher, start_server: Callable[..., str]) -> None:
    address = start_server(searcher)
    searcher.delay = 1.5
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=address) as client:
        slow = pool.submit(
            httpx.post, f"{address}/api/searches", json={"references": [{"image_id": 1}]}
        )
        assert client.get("/api/pictures/1/320").status_code == 200
        assert not slow.done()
        assert slow.result().status_code == 200
