"""What users do: every answer is compared with the one that the quiet server gave."""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from spil_d2.web import WebSettings

from .served import Gallery, draw_picture
from .wire import Answer, Line, Watch, post_json, request

_UPLOADS = [("PNG", (320, 240)), ("WEBP", (200, 300)), ("JPEG", (2000, 1500))]
_REFINED = 2
_PAUSE_SECONDS = 1.0


class WrongAnswer(AssertionError):
    """A valid request was not answered as it should be."""


@dataclass
class Timings:
    """Of one kind of request.

    Attributes:
        seconds: of each that was answered.
        refused: answered with 503.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0


@dataclass(frozen=True)
class Truth:
    """Answers of the quiet server.

    Attributes:
        info: of /api/info.
        pictures: rows of /api/pictures.
        files: address -> body, of the page's files and of shrunk pictures.
        searches: (body of the request, hits); "upload" is a number of `uploads` there.
        uploads: (file, width, height).
        refined: hits of the first search after refinement.
    """

    info: dict
    pictures: list[dict]
    files: dict[str, bytes]
    searches: list[tuple[dict, list]]
    uploads: list[tuple[bytes, int, int]]
    refined: list[dict]


class User:
    """One client with a browser's habits: a connection that is kept, a request after the other."""

    def __init__(self, port: int, watch: Watch, rng: random.Random) -> None:
        self.timings: dict[str, Timings] = {}
        self.errors: list[str] = []
        self._port = port
        self._watch = watch
        self._rng = rng
        self._line: Line | None = None

    async def run(self, truth: Truth, until: float) -> None:
        """Ask for this and that until a moment of the loop's clock."""
        loop = asyncio.get_running_loop()
        steps: list[Callable[[Truth], Awaitable[None]]] = [
            *[self._page, self._info, self._listing] * 2,
            *[self._picture] * 7,
            *(self._search, self._search, self._search_upload, self._refine),
        ]
        while loop.time() < until:
            step = self._rng.choice(steps)
            try:
                await step(truth)
            except _Refused:
                await asyncio.sleep(0.5)
            except (WrongAnswer, TimeoutError, OSError) as error:
                self.errors.append(f"{step.__name__[1:]}: {type(error).__name__} {error}"[:300])
                await self.close()
            await asyncio.sleep(self._rng.random() * _PAUSE_SECONDS)
        await self.close()

    async def close(self) -> None:
        """Drop the connection."""
        if self._line is not None:
            await self._line.close()
            self._line = None

    async def ask(self, kind: str, data: bytes) -> Answer:
        """Send a request and wait; once more on a new connection where the kept one has ended."""
        started = time.perf_counter()
        answer = Answer(0)
        while answer.status == 0:
            is_new = self._line is None
            if self._line is None:
                self._line = await Line.open(self._port, self._watch)
            try:
                await self._line.send(data)
                answer = await self._line.answer()
            except ConnectionError:
                answer = Answer(0)
            if answer.status == 0 or answer.headers.get("connection") == "close":
                await self.close()
            if answer.status == 0 and is_new:
                raise WrongAnswer("the connection has ended without an answer")
        timings = self.timings.setdefault(kind, Timings())
        if answer.status == 503:
            timings.refused += 1
            raise _Refused
        timings.seconds.append(time.perf_counter() - started)
        return answer

    async def upload(self, file: bytes) -> str:
        """Give the server a picture; returns its name there."""
        answer = await self.ask("upload", request("POST", "/api/uploads", file))
        _check(answer.status == 201, f"upload: {answer.status} {answer.body[:200]!r}")
        return answer.json()["upload"]

    async def hits(self, body: dict) -> tuple[str, list]:
        """Search; returns the search's name, and its hits."""
        answer = await self.ask("search", post_json("/api/searches", body))
        _check(answer.status == 200, f"search: {answer.status} {answer.body[:200]!r}")
        return answer.json()["search_id"], answer.json()["hits"]

    async def refined(self, search_id: str) -> list[dict]:
        """Hits of the stream of a search."""
        answer = await self.ask("refine", request("GET", f"/api/searches/{search_id}/refined"))
        _check(answer.status == 200, f"refine: {answer.status} {answer.body[:200]!r}")
        events = [
            dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            for block in answer.body.decode().strip().split("\n\n")
        ]
        _check(events[-1].get("event") == "done", f"refine: {answer.body[-300:]!r}")
        return [json.loads(one["data"])["hit"] for one in events[:-1] if one]

    async def _page(self, truth: Truth) -> None:
        path = self._rng.choice([one for one in truth.files if "/api/" not in one])
        answer = await self.ask("page", request("GET", path))
        _check(answer.body == truth.files[path], f"{path} is another file")

    async def _info(self, truth: Truth) -> None:
        answer = await self.ask("info", request("GET", "/api/info"))
        _check(answer.json() == truth.info, f"info: {answer.body[:200]!r}")

    async def _listing(self, truth: Truth) -> None:
        offset, limit = self._rng.randrange(12), self._rng.randrange(1, 12)
        target = f"/api/pictures?offset={offset}&limit={limit}"
        answer = await self.ask("list", request("GET", target))
        expected = truth.pictures[offset : offset + limit]
        _check(answer.json()["pictures"] == expected, f"{target}: {answer.body[:200]!r}")

    async def _picture(self, truth: Truth) -> None:
        path = self._rng.choice([one for one in truth.files if "/api/" in one])
        answer = await self.ask("picture", request("GET", path))
        _check(answer.body == truth.files[path], f"{path}: {answer.status}, another picture")

    async def _search(self, truth: Truth) -> None:
        body, expected = self._rng.choice([one for one in truth.searches if not _is_upload(one[0])])
        _, hits = await self.hits(body)
        _check(hits == expected, f"search {body}: other hits")

    async def _search_upload(self, truth: Truth) -> None:
        body, expected = self._rng.choice([one for one in truth.searches if _is_upload(one[0])])
        file, width, height = truth.uploads[body["references"][0]["upload"]]
        token = await self.upload(file)
        shown = await self.ask("picture", request("GET", f"/api/uploads/{token}/320"))
        size = Image.open(io.BytesIO(shown.body)).size
        _check(max(size) <= 320 and (size[0] > size[1]) == (width > height), f"shown {size}")
        _, hits = await self.hits(_with_token(body, token))
        _check(hits == expected, f"search {body}: other hits")

    async def _refine(self, truth: Truth) -> None:
        body, _ = truth.searches[0]
        search_id, _ = await self.hits(body)
        _check(await self.refined(search_id) == truth.refined, "other refined hits")


async def learn(gallery: Gallery, port: int, watch: Watch, seed: int) -> Truth:
    """Ask a quiet server what the users will ask."""
    user = User(port, watch, random.Random(seed))
    rng = np.random.default_rng(seed)
    info = (await user.ask("info", request("GET", "/api/info"))).json()
    rows = (await user.ask("list", request("GET", "/api/pictures"))).json()["pictures"]
    page = ["/", "/static/app.js"]
    whole = [one for one in rows if one["image"] != gallery.lost]
    shown = [f"/api/pictures/{one['image_id']}/{side}" for one in whole for side in (320, 1280)]
    files = {}
    for path in page + shown:
        answer = await user.ask("file", request("GET", path))
        _check(answer.status == 200, f"{path}: {answer.status}")
        files[path] = answer.body
    uploads = [(_encoded(rng, kind, size), *size) for kind, size in _UPLOADS]
    searches = []
    for body in _bodies(whole, uploads):
        token = body["references"][0].get("upload")
        sent = body if token is None else _with_token(body, await user.upload(uploads[token][0]))
        search_id, hits = await user.hits(sent)
        _check(len(hits) > 1, f"search {body}: {len(hits)} hits")
        searches.append((body, hits))
        if body["k"] == _REFINED:
            refined = await user.refined(search_id)
            _check(bool(refined), "no refined hits")
    await user.close()
    return Truth(info, rows, files, searches, uploads, refined)


class _Refused(Exception):
    """The server is full and has said so."""


def _bodies(rows: list[dict], uploads: list) -> list[dict]:
    """Searches; that which is refined comes first."""
    settings = WebSettings()
    ids = [one["image_id"] for one in rows]
    box = [40.5, 30.0, 180.0, 170.25]
    queries = [[{"image_id": one, "boxes": [box]}] for one in ids[:2]]
    queries.append([{"image_id": ids[0], "boxes": [box] * settings.max_boxes}])
    queries.append([{"image_id": one, "boxes": []} for one in ids[:3]])
    queries += [[{"upload": i, "boxes": [[9, 9, 150, 120]]}] for i in range(len(uploads))]
    ks = [_REFINED] + [8] * (len(queries) - 1)
    return [{"references": one, "k": k, "combine": "max"} for one, k in zip(queries, ks)]


def _is_upload(body: dict) -> bool:
    return "upload" in body["references"][0]


def _with_token(body: dict, token: str) -> dict:
    return {**body, "references": [{**body["references"][0], "upload": token}]}


def _encoded(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> bytes:
    target = io.BytesIO()
    draw_picture(rng, size).save(target, kind)
    return target.getvalue()


def _check(is_right: bool, otherwise: str) -> None:
    if not is_right:
        raise WrongAnswer(otherwise)
