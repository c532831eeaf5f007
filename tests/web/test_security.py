"""Who is refused, and what every answer forbids the browser."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from spil_d2.web import create_app
from spil_d2.web.security import HEADERS, is_known_host
from spil_d2.web.server import is_loopback, names_of

from .conftest import ColourSearcher

NAMES = {"localhost", "photos.lan"}


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "photos.lan:80", "127.0.0.1:8000", "192.168.1.7", "[::1]:8000"],
)
def test_addresses_and_known_names_are_served(host: str) -> None:
    assert is_known_host(host, NAMES)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost"]
    + ["localhost evil", "[evil]", "localhost:x", "a/../localhost", "localhost\n", "[::::]"],
)
def test_other_names_are_not(host: str) -> None:
    assert not is_known_host(host, NAMES)


def test_names_of_what_is_listened_on() -> None:
    assert names_of("127.0.0.1") == names_of("::1") == {"localhost"}
    assert {"localhost", "0.0.0.0"} < names_of("0.0.0.0")
    assert [is_loopback(one) for one in ("localhost", "127.0.0.9", "::1", "0.0.0.0", "lan")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_rebound_name_gets_nothing(client: httpx.Client) -> None:
    for path in ("/", "/api/info", "/api/pictures/1/320", "/static/app.js"):
        answer = client.get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 403
        assert "does not go by the name 'evil.example'" in answer.json()["message"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://[", "http://[::::]"]
)
@pytest.mark.parametrize("path", ["/api/uploads", "/api/searches"])
def test_another_site_cannot_post(
    client: httpx.Client, red_square: bytes, origin: str, path: str
) -> None:
    answer = client.post(path, content=red_square, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "may not use this server" in answer.json()["message"]


def test_the_own_page_can_post(client: httpx.Client, red_square: bytes) -> None:
    origin = str(client.base_url).rstrip("/")
    assert client.post("/api/uploads", content=red_square).status_code == 201
    answer = client.post("/api/uploads", content=red_square, headers={"Origin": origin})
    assert answer.status_code == 201


def test_a_long_head_is_refused(client: httpx.Client) -> None:
    answer = client.get("/api/info", headers={"X": "a" * 40_000})
    assert answer.status_code == 431 and "too long" in answer.json()["message"]


def test_websockets_are_refused(tmp_path: Path) -> None:
    """Where another server than ours runs the page; ours does not speak them."""
    app = create_app(ColourSearcher(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(WebSocketDisconnect):
        with TestClient(app).websocket_connect("/"):
            pass


def test_another_site_cannot_embed_but_may_link(client: httpx.Client) -> None:
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/pictures/1/320", headers=embedded).status_code == 403
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=linked).status_code == 200
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/pictures/1/320", headers=own).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/info", "/api/nothing", "/api/pictures/1/320"]
)
def test_every_answer_carries_the_headers(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/web/app.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/app.js%00",
        "/api/pictures/..%2f..%2fetc%2fpasswd/320",
        "/api/pictures/photos%2f001.png/320",
        "/api/pictures/1/99999",
        "/api/pictures/-1/320",
        "/api/pictures/99/320",
        "/api/pictures/9223372036854775808/320",
        "/api/uploads/..%2f..%2fetc%2fpasswd/320",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_path_reaches_a_file(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 422)
    assert answer.json()["message"]
