"""Requests that should not be: what they are, and what a server may answer.

Each case is one exchange on a connection of its own. `cases` gives all of them; the same seed gives
the same bytes.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from .pictures import bombs, damaged_pictures
from .served import Gallery
from .wire import post_json, request

REFUSED = "4xx, or 503"
"""What must not be served."""
HARMLESS = "anything below 500, or 503"
"""What means something else than its sender hopes, such as a search for the name `../secret`."""
DROPPED = "4xx, 503, or a connection that is closed"
"""What is no HTTP."""


@dataclass(frozen=True)
class Case:
    """One exchange.

    Attributes:
        name: its group and what it is.
        data: sent at once; or makes it, where it is large.
        allowed: `REFUSED`, `HARMLESS` or `DROPPED`.
        method: of the request.
        answers: that are expected, of requests in a row.
        is_heavy: takes seconds of the server.
    """

    name: str
    data: bytes | Callable[[], bytes]
    allowed: str = REFUSED
    method: str = "GET"
    answers: int = 1
    is_heavy: bool = False


def cases(gallery: Gallery, seed: int, heavy: bool) -> list[Case]:
    """All cases, in groups.

    Args:
        gallery: with the files that are asked for.
        seed: of all chance.
        heavy: also those that take the server seconds.
    """
    rng = random.Random(seed)
    found = [
        *_traversals(gallery),
        *_bodies(),
        *_json(),
        *_pictures(rng, heavy),
        *_heads(rng),
        *_names(),
        *_methods(),
        *_protocols(),
    ]
    return [one for one in found if heavy or not one.is_heavy]


def is_allowed(case: Case, status: int) -> bool:
    """Whether a case may be answered so; 0 is a closed connection."""
    if status == 0:
        return case.allowed == DROPPED
    return status == 503 or 400 <= status < 500 or (case.allowed == HARMLESS and status < 500)


def _paths(gallery: Gallery) -> Iterator[tuple[str, str]]:
    """Ways to write the path of a secret: beside the pictures, in the index, and above both."""
    for up in ("../secret.txt", "../../secret.txt", "../photos.index/secret.txt", "secret.txt"):
        yield f"plain {up}", up
        yield f"escaped {up}", quote(up, safe="").replace(".", "%2e")
        yield f"twice escaped {up}", quote(quote(up, safe="").replace(".", "%2e"), safe="")
        yield f"overlong {up}", up.replace(".", "%c0%ae").replace("/", "%c0%af")
        yield f"backslashes {up}", up.replace("/", "\\")
        yield f"escaped backslashes {up}", up.replace("/", "%5c")
        yield f"dots with parameters {up}", up.replace("../", "..;/")
        yield f"more dots {up}", up.replace("../", "....//")
        yield f"wide dots {up}", up.replace(".", "%ef%bc%8e")
        yield f"code units {up}", up.replace(".", "%u002e")
        yield f"NUL {up}", f"{up}%00.png"
        yield f"raw bytes {up}", up.replace("/", "\udcc0\udcaf")
    for path in (gallery.root / "secret.txt", gallery.photos / "link.png"):
        yield f"absolute {path.name}", str(path)
        yield f"escaped absolute {path.name}", quote(str(path), safe="")
        yield f"scheme {path.name}", f"file://{path}"
    yield "link", "link.png"
    yield "indexed name", gallery.lost
    yield "proc", "/proc/self/environ"


def _traversals(gallery: Gallery) -> Iterator[Case]:
    places = ["/{}", "/static/{}", "/static/../{}", "/api/pictures/{}/320", "/api/pictures/1/{}"]
    places += ["/api/uploads/{}/320", "/api/uploads/{}/{}", "/api/searches/{}/refined"]
    places += ["/api/pictures?offset={}", "/api/pictures?limit={}", "/api/{}", "//{}"]
    for shown, path in _paths(gallery):
        for place in places:
            yield Case(f"path {place} {shown}", request("GET", place.replace("{}", path)))
        is_raw = "\udcc0" in path
        allowed = REFUSED if is_raw else HARMLESS
        target = f"/api/pictures?name={path}"
        yield Case(f"path in name: {shown}", request("GET", target), allowed)
        for header in ("Cookie", "Referer", "If-None-Match", "Range", "X-Original-URL"):
            data = request("GET", "/api/info", headers=[(header, path)])
            yield Case(f"path in {header}: {shown}", data, HARMLESS)
        for body in ({"upload": path}, {"image_id": path}, {"path": path}, {path: 1}):
            data = post_json("/api/searches", {"references": [body], "k": 1})
            yield Case(f"path in JSON {next(iter(body))[:9]}: {shown}", data, method="POST")


def _bodies() -> Iterator[Case]:
    zeros = gzip.compress(bytes(50_000_000), 1)
    packed = [("Content-Encoding", "gzip"), ("Content-Type", "application/json")]
    for target in ("/api/searches", "/api/uploads"):
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for length in ("100000000000", "99999999999999999999", "-1", "1e3", "0x10", "5, 6", ""):
            data = f"{head}Content-Length: {length}\r\n\r\nabc".encode()
            yield Case(f"body {target} Content-Length {length!r}", data, DROPPED, "POST")
        for name, more in [
            ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
            (
                "length and chunks",
                "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            ("wrong chunk", "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"),
            ("huge chunk", "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nhello\r\n"),
            ("minus chunk", "Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n"),
            ("unknown coding", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ]:
            yield Case(f"body {target} {name}", (head + more).encode(), DROPPED, "POST")
        yield Case(f"body {target} gzip", request("POST", target, zeros, packed), method="POST")
        yield Case(f"body {target} none", request("POST", target), method="POST")
        for kind in ("text/plain", "application/xml", "multipart/form-data", "\udcff", "a/b/c;;="):
            data = request("POST", target, b"<a/>", [("Content-Type", kind)])
            yield Case(f"body {target} of {kind!a}", data, method="POST")
    large = b'{"references": [{"image_id": 1}], "excluded": [' + b"1," * 1_200_000 + b"1]}"
    yield Case("body too large JSON", post_json("/api/searches", large), method="POST")


def _json() -> Iterator[Case]:
    box = [1, 2, 30, 40]
    one = {"image_id": 1, "boxes": [box]}
    wrong: list[tuple[str, object]] = [
        ("deep list", b"[" * 200_000),
        ("deep closed list", b"[" * 100_000 + b"]" * 100_000),
        ("deep object", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        ("cut", b'{"references": [{"image_id"'),
        ("UTF-16", '{"references": []}'.encode("utf-16")),
        ("not UTF-8", b'{"references": "\xff\xfe"}'),
        ("NUL", b'{"references": "\x00"}'),
        ("empty", b" "),
        ("null", None),
        ("number", 7),
        ("digits", b'{"k": ' + b"9" * 100_000 + b"}"),
        ("half a character as a name", b'{"\\ud800": 1, "references": [{"image_id": 1}]}'),
        ("half a character as upload", b'{"references": [{"upload": "\\ud800"}]}'),
        ("many references", {"references": [{"image_id": 1}] * 60_000}),
        ("many wrong references", {"references": [0] * 600_000}),
        ("many boxes", {"references": [{"image_id": 1, "boxes": [box] * 100_000}]}),
        ("many wrong boxes", {"references": [{"image_id": 1, "boxes": [0] * 600_000}]}),
        ("many wrong excluded", {"references": [one], "excluded": ["a"] * 400_000}),
        ("many names", b"{" + b",".join(b'"%d":1' % i for i in range(150_000)) + b"}"),
    ]
    for k in (0, -1, 1001, 10**30, 1e308, "x", None, {}, [1], 1.5):
        wrong.append((f"k {k!r}", {"references": [one], "k": k}))
    for number in (2**63, 2**64, 10**40, -1, 1.5, "x", None, [], {}, 1e300, 424242):
        wrong.append((f"image_id {number!r}", {"references": [{"image_id": number}]}))
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "1e400", "null", '"a"', "[]"):
        boxes = f"[[0, 0, {text}, 10]]".encode()
        data = b'{"references": [{"image_id": 1, "boxes": ' + boxes + b"}]}"
        wrong.append((f"box with {text[:9]}", data))
    for odd in (
        [0, 0, 0, 0],
        [9, 9, 1, 1],
        [-1, 0, 9, 9],
        [0, 0, 1e9, 9],
        [1, 2, 3],
        [],
        box + [1],
    ):
        wrong.append((f"box {odd}", {"references": [{"image_id": 1, "boxes": [odd]}]}))
    both = {"image_id": 1, "upload": "x"}
    for body in ({"references": []}, {"references": [both]}, {"references": [{}]}, {}, [], "x"):
        wrong.append((f"body {body}", body))
    for more in ({"combine": "drop"}, {"combine": None}, {"extra": 1}, {"excluded": "1"}):
        wrong.append((f"with {more}", {"references": [one], **more}))
    for name, body in wrong:
        yield Case(f"JSON {name}", post_json("/api/searches", body), method="POST")


def _pictures(rng: random.Random, heavy: bool) -> Iterator[Case]:
    for name, data in damaged_pictures(rng, 400 if heavy else 60):
        yield Case(f"picture {name}", request("POST", "/api/uploads", data), HARMLESS, "POST")
    for name, data, is_small in bombs(heavy):
        allowed = HARMLESS if is_small else REFUSED
        upload = request("POST", "/api/uploads", data)
        yield Case(f"bomb {name}", upload, allowed, "POST", is_heavy=is_small)


def _heads(rng: random.Random) -> Iterator[Case]:
    line = b"GET /api/info HTTP/1.1\r\n"
    host = b"Host: localhost\r\n"
    for name, data in [
        ("long header", line + host + b"X: " + b"a" * 100_000 + b"\r\n\r\n"),
        ("many headers", line + host + b"X: a\r\n" * 20_000 + b"\r\n"),
        ("long target", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + host + b"\r\n"),
        ("long method", b"A" * 100_000 + b" / HTTP/1.1\r\n" + host + b"\r\n"),
        ("no colon", line + host + b"broken\r\n\r\n"),
        ("NUL in a value", line + host + b"X: a\x00b\r\n\r\n"),
        ("space before colon", line + host + b"X : a\r\n\r\n"),
        ("no name", line + host + b": a\r\n\r\n"),
        ("bare CR", line + host + b"X: a\rb\r\n\r\n"),
        ("no host", line + b"\r\n"),
        ("two hosts", line + host + host + b"\r\n"),
        ("version 0.9", b"GET /\r\n\r\n"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40)),
        ("TLS", bytes.fromhex("1603010200010001fc0303") + bytes(200) + b"\r\n\r\n"),
        ("lines only", b"\r\n" * 50_000 + b"x\r\n\r\n"),
    ]:
        yield Case(f"head {name}", data, DROPPED)
    for number in range(20):
        noise = rng.randbytes(rng.randrange(1, 4000)) + b"\r\n\r\n"
        yield Case(f"head noise {number}", noise, DROPPED)
    yield Case("head folded header", line + host + b"X: a\r\n b\r\n\r\n", HARMLESS)
    yield Case("head version 9", b"GET / HTTP/9.9\r\n" + host + b"\r\n", HARMLESS)


def _names() -> Iterator[Case]:
    for host in ("evil.example", "localhost.evil.example", "localhost@evil.example", "[::::]"):
        yield Case(f"host {host}", request("GET", "/", host=host))
    for host in ("[v1.x]", "[evil]", "[::1%25x]", "127.0.0.1:x", "a b", "/etc", "'", "0x7f000001"):
        yield Case(f"host {host}", request("GET", "/api/info", host=host))
    forwarded = [("X-Forwarded-Host", "evil.example"), ("X-Forwarded-For", "9.9.9.9")]
    forwarded += [("X-Forwarded-Proto", "gopher"), ("Forwarded", "for=[::::]")]
    yield Case("host forwarded", request("GET", "/", headers=forwarded), HARMLESS)
    origins = [
        "https://evil.example",
        "null",
        "http://[",
        "http://[::::]",
        "file://",
        "//",
        "\udcff",
    ]
    for origin in origins:
        for target in ("/api/uploads", "/api/searches"):
            data = request("POST", target, b"{}", [("Origin", origin)])
            yield Case(f"origin {origin!a} {target}", data, method="POST")
    for site in ("cross-site", "same-site"):
        headers = [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", "no-cors")]
        yield Case(f"fetch {site}", request("GET", "/api/pictures/1/320", headers=headers))


def _methods() -> Iterator[Case]:
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "HEAD", "PROPFIND", "get", "X"):
        for target in ("/", "/api/info", "/api/searches", "/static/app.js", "*"):
            yield Case(f"method {method} {target}", request(method, target), method=method)
    for target in ("/", "/api/info", "/api/pictures/1/320"):
        yield Case(f"method POST {target}", request("POST", target, b"{}"), method="POST")
    # A parser of answers takes what follows a CONNECT for a tunnel.
    yield Case("method CONNECT", request("CONNECT", "evil.example:443"))
    for target in ("http://evil.example/", "http://127.0.0.1/api/info", "//evil.example/api/info"):
        yield Case(f"target {target}", request("GET", target))
    for target in ("/api/info/", "/api//info", "/API/INFO", "/static/", "/docs", "/openapi.json"):
        yield Case(f"target {target}", request("GET", target))
    for target in ("/api/pictures/-1/320", "/api/pictures/9223372036854775808/320", "/api/x?a=%00"):
        yield Case(f"target {target}", request("GET", target))
    for target in (
        "offset=-1",
        "limit=0",
        "limit=201",
        "limit=1e2",
        f"name={'a' * 201}",
        "offset=",
    ):
        yield Case(f"target ?{target}", request("GET", f"/api/pictures?{target}"))


def _protocols() -> Iterator[Case]:
    key = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
    key.append(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
    for target in ("/", "/api/info", "/api/searches/x/refined"):
        yield Case(f"websocket {target}", request("GET", target, headers=key), HARMLESS)
    upgrade = [("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings")]
    yield Case("upgrade to HTTP/2", request("GET", "/", headers=upgrade), HARMLESS)
    row = request("GET", "/api/info") * 40
    yield Case("pipelined", row, HARMLESS, answers=40)
    hidden = request("GET", "/api/info", b"GET /secret.txt HTTP/1.1\r\nHost: x\r\n\r\n")
    yield Case("pipelined in a body", hidden + request("GET", "/api/info"), HARMLESS, answers=2)
    body = [("Expect", "100-continue")]
    yield Case("expects", request("POST", "/api/uploads", b"abc", body), method="POST")
