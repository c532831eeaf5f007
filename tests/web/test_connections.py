"""Clients that are slow, too many, or gone: what the server keeps for them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

SLOW = {"head_seconds": 0.3, "body_seconds": 0.3, "answer_seconds": 0.3, "body_rate": 10**6}
PATIENCE = 5.0
UPLOAD = b"POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def connected(address: str) -> socket.socket:
    url = httpx.URL(address)
    return socket.create_connection((url.host, url.port), timeout=PATIENCE)


def read_all(one: socket.socket) -> bytes:
    """What comes until the server closes the connection; TimeoutError where it does not."""
    data = b""
    try:
        while part := one.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


@pytest.fixture
def address(searcher, start_server: Callable[..., str]) -> str:
    return start_server(searcher, **SLOW)


@pytest.fixture
def line(address: str) -> Iterator[socket.socket]:
    with connected(address) as one:
        yield one


def test_an_idle_connection_is_closed_without_a_word(line: socket.socket) -> None:
    assert read_all(line) == b""


@pytest.mark.parametrize("before", [b"", b"GET /api/info HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_half_a_head_is_answered_late_with_408(line: socket.socket, before: bytes) -> None:
    line.sendall(before + b"GET /api/info HTTP/1.1\r\nHost: loc")
    answer = read_all(line)
    assert answer.startswith(b"HTTP/1.1 200" if before else b"HTTP/1.1 408")
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"HTTP/1.1 408 Request Timeout" in head and b"connection: close" in head.lower()
    assert "took too long" in json.loads(body)["message"]


@pytest.mark.parametrize("target", ["uploads", "searches"])
def test_a_body_that_does_not_end_is_answered_with_408(
    line: socket.socket, target: str, caplog
) -> None:
    head = UPLOAD.replace(b"uploads", target.encode()) % 1000
    line.sendall(head.replace(b"Host", b"Content-Type: application/json\r\nHost") + b"[1, 2")
    assert read_all(line).startswith(b"HTTP/1.1 408")
    assert not caplog.records


def test_a_slow_body_that_comes_at_a_fair_rate_is_waited_for(
    searcher, start_server: Callable[..., str], red_square: bytes
) -> None:
    address = start_server(searcher, **{**SLOW, "body_rate": len(red_square) // 3})
    with connected(address) as one:
        one.sendall(UPLOAD % len(red_square))
        for start in range(0, len(red_square), 40):
            one.sendall(red_square[start : start + 40])
            time.sleep(0.8 / (len(red_square) / 40))
        assert one.recv(100).startswith(b"HTTP/1.1 201")


def test_the_rest_of_a_body_is_not_taken_for_long(line: socket.socket) -> None:
    line.sendall(UPLOAD.replace(b"uploads", b"info") % 10**12)
    started = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() - started < PATIENCE:
            line.sendall(bytes(65536))
            time.sleep(0.02)


def test_who_does_not_take_answers_is_cut_off(address: str) -> None:
    url = httpx.URL(address)
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.settimeout(PATIENCE)
        one.connect((url.host, url.port))
        request = b"GET /static/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        length = len(httpx.get(f"{address}/static/app.js").content)
        one.sendall(request * 400)
        time.sleep(1.5)
        assert len(read_all(one)) < 400 * length


def test_the_oldest_idle_connection_makes_room(searcher, start_server: Callable[..., str]) -> None:
    address = start_server(searcher, max_connections=16)
    idle = [connected(address) for _ in range(40)]
    try:
        assert httpx.get(f"{address}/api/info").status_code == 200
        for one in idle[:23]:
            assert read_all(one) == b""
    finally:
        for one in idle:
            one.close()


def test_busy_connections_stay_and_others_are_told(
    searcher, start_server: Callable[..., str]
) -> None:
    address = start_server(searcher, max_connections=3)
    searcher.delay = 1.0
    found = []
    with ThreadPoolExecutor(5) as pool:
        for _ in range(5):
            body = {"references": [{"image_id": 1}]}
            found.append(pool.submit(httpx.post, f"{address}/api/searches", json=body, timeout=20))
            time.sleep(0.15)
    assert [one.result().status_code for one in found] == [200, 200, 200, 503, 503]


def test_bodies_of_all_requests_together_are_bounded(
    searcher, start_server: Callable[..., str], red_square: bytes
) -> None:
    address = start_server(searcher, body_memory=300_000)
    with connected(address) as one:
        one.sendall(UPLOAD % 290_000 + bytes(280_000))
        time.sleep(0.3)
        refused = httpx.post(f"{address}/api/uploads", content=bytes(50_000))
        assert refused.status_code == 503 and refused.headers["Retry-After"]
        assert "busy" in refused.json()["message"]
        body = b"[" + b" " * 50_000 + b"]"
        headers = {"Content-Type": "application/json"}
        refused = httpx.post(f"{address}/api/searches", content=body, headers=headers)
        assert refused.status_code == 503
    deadline = time.monotonic() + PATIENCE
    while httpx.post(f"{address}/api/uploads", content=red_square).status_code != 201:
        assert time.monotonic() < deadline, "the room of a client that left is not free again"


def test_who_left_is_passed_over(searcher, client: httpx.Client) -> None:
    searcher.delay = 0.2
    body = json.dumps({"references": [{"image_id": 1}]}).encode()
    head = UPLOAD.replace(b"uploads", b"searches") % len(body)
    head = head.replace(b"Host", b"Content-Type: application/json\r\nHost")
    for _ in range(20):
        with connected(str(client.base_url)) as one:
            one.sendall(head + body)
            time.sleep(0.01)
    started = time.monotonic()
    answer = client.post("/api/searches", json={"references": [{"image_id": 2}]})
    assert answer.status_code == 200
    assert len(searcher.calls) < 8 and time.monotonic() - started < 3


def test_an_upload_that_is_broken_off_is_no_failure(client: httpx.Client, caplog) -> None:
    with connected(str(client.base_url)) as one:
        one.sendall(UPLOAD % 1000 + b"half")
    for _ in range(3):
        assert client.get("/api/info").status_code == 200
    assert not caplog.records
