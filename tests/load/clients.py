"""Clients that mean harm: those that send cases, and those that hang on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from spil_d2.web import WebSettings

from .hostile import Case, is_allowed
from .wire import Line, Watch, post_json, request

_SLACK_SECONDS = 15.0
# Of one case: decoding a large picture on a busy machine takes a while.
_CASE_SECONDS = 120.0
_FLOOD = 1.5


@dataclass
class Findings:
    """What hostile clients saw.

    Attributes:
        exchanges: number, by group of cases and status.
        wrong: what should not have been answered so.
        held: for each slow behaviour, seconds until the server ended it.
    """

    exchanges: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    held: dict[str, list[float]] = field(default_factory=dict)


class Attacker:
    """Sends one case after the other, each on a connection of its own."""

    def __init__(self, port: int, watch: Watch, findings: Findings) -> None:
        self._port = port
        self._watch = watch
        self._findings = findings

    async def run(self, cases: Sequence[Case], until: float) -> None:
        """Send the cases in a circle, each at least once, until a moment of the loop's clock."""
        loop = asyncio.get_running_loop()
        is_first = True
        while is_first or loop.time() < until:
            for case in cases:
                if not is_first and loop.time() >= until:
                    return
                await self.send(case)
            is_first = False

    async def send(self, case: Case) -> None:
        """One exchange, and the judgement on it."""
        data = case.data() if callable(case.data) else case.data
        line = await Line.open(self._port, self._watch)
        # A server may answer and close before it has read everything.
        sending = asyncio.ensure_future(line.send(data))
        try:
            for _ in range(case.answers):
                status = (await line.answer(case.method, _CASE_SECONDS)).status
                self._findings.exchanges[case.name.split()[0], status] += 1
                if not is_allowed(case, status):
                    self._findings.wrong.append(f"{case.name}: {status}, not {case.allowed}")
        except TimeoutError:
            self._findings.wrong.append(f"{case.name}: no answer in {_CASE_SECONDS} s")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            line.abort()


class Leaver:
    """Asks for work and goes before it is done."""

    def __init__(self, port: int, watch: Watch, rng: random.Random) -> None:
        self._port = port
        self._watch = watch
        self._rng = rng

    async def run(self, until: float) -> None:
        """Go on until a moment of the loop's clock."""
        search = post_json("/api/searches", {"references": [{"image_id": 1}], "k": 50})
        upload = request("POST", "/api/uploads", bytes(100_000))
        whole = [search, request("GET", "/api/pictures/1/1280"), request("GET", "/static/app.js")]
        while asyncio.get_running_loop().time() < until:
            for data in [self._rng.choice(whole) for _ in range(8)] + [upload[: len(upload) // 2]]:
                line = await Line.open(self._port, self._watch)
                await line.send(data)
                await asyncio.sleep(self._rng.choice([0, 0, 0.005, 0.05]))
                line.abort()
            await asyncio.sleep(0.5)


class SlowClient:
    """Holds connections as long as the server lets it."""

    def __init__(self, port: int, watch: Watch, findings: Findings, limits: WebSettings) -> None:
        self._port = port
        self._watch = watch
        self._findings = findings
        self._limits = limits

    def behaviours(self) -> list[Callable[[], Awaitable[None]]]:
        """All of them; each ends when the server has ended the connection."""
        return [
            *(self.slow_head, self.slow_upload, self.slow_json, self.idle, self.second_head),
            *(self.half_closed, self.endless_rest, self.never_reads, self.flood, self.endless_body),
        ]

    async def run(self, first: int, until: float) -> None:
        """One behaviour after the other, from the `first` on."""
        loop, number = asyncio.get_running_loop(), first
        while loop.time() < until:
            behaviour = self.behaviours()[number % len(self.behaviours())]
            number += 1
            started = loop.time()
            try:
                await behaviour()
            except OSError:
                # Closed while it was sending, which is what is wanted. TimeoutError is one, too.
                pass
            self._findings.held.setdefault(behaviour.__name__, []).append(loop.time() - started)

    async def slow_head(self) -> None:
        """A byte of the head now and then."""
        head = request("GET", "/api/info", headers=[("X", "a" * 500)])
        await self._trickle(b"", head, self._limits.head_seconds)

    async def slow_upload(self) -> None:
        """A byte of a picture now and then."""
        head = b"POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
        await self._trickle(head, bytes(10_000), self._limits.body_seconds)

    async def slow_json(self) -> None:
        """A byte of a search now and then."""
        head = (
            b"POST /api/searches HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        head += b"Content-Length: 900000\r\n\r\n"
        await self._trickle(head, b" " * 10_000, self._limits.body_seconds)

    async def idle(self) -> None:
        """Nothing."""
        await self._wait(await self._line(), "idle", self._limits.head_seconds)

    async def second_head(self) -> None:
        """A request, and the beginning of another one."""
        line = await self._line()
        await line.send(request("GET", "/api/info"))
        await line.answer()
        await line.send(b"G")
        await self._wait(line, "second_head", self._limits.head_seconds)

    async def half_closed(self) -> None:
        """Half a head, and the end of sending."""
        line = await self._line()
        await line.send(b"GET /api/info HT")
        line.end_of_sending()
        await self._wait(line, "half_closed", self._limits.head_seconds)

    async def endless_rest(self) -> None:
        """A body without end for what needs none, after its answer."""
        line = await self._line()
        await line.send(b"POST /api/info HTTP/1.1\r\nHost: localhost\r\n")
        await line.send(b"Content-Length: 99999999999\r\n\r\n")
        await self._pour(line, "endless_rest", bytes(65536))

    async def endless_body(self) -> None:
        """An upload in chunks without end."""
        line = await self._line()
        await line.send(b"POST /api/uploads HTTP/1.1\r\nHost: localhost\r\n")
        await line.send(b"Transfer-Encoding: chunked\r\n\r\n")
        await self._pour(line, "endless_body", b"10000\r\n" + bytes(65536) + b"\r\n")

    async def never_reads(self) -> None:
        """Many requests, and no look at the answers."""
        line = await Line.open(self._port, self._watch, small_buffer=True)
        async with asyncio.timeout(_SLACK_SECONDS):
            await line.send(request("GET", "/api/pictures/1/1280") * 150)
        await asyncio.sleep(self._limits.answer_seconds + _SLACK_SECONDS)
        await self._wait(line, "never_reads", 0.0)

    async def flood(self) -> None:
        """More connections than are allowed, all at once, with nothing on them."""
        number = round(_FLOOD * self._limits.max_connections)
        lines = [await self._line() for _ in range(number)]
        waits = [self._wait(one, "flood", self._limits.head_seconds) for one in lines]
        await asyncio.gather(*waits)

    async def _line(self) -> Line:
        return await Line.open(self._port, self._watch)

    async def _trickle(self, head: bytes, rest: bytes, limit: float) -> None:
        """Send the head, then the rest byte by byte, ten of them within the limit."""
        line = await self._line()
        await line.send(head)
        end = asyncio.ensure_future(line.until_closed(limit + _SLACK_SECONDS))
        try:
            for byte in rest:
                if end.done():
                    break
                await line.send(bytes([byte]))
                await asyncio.wait([end], timeout=limit / 10)
            await end
        except TimeoutError:
            self._findings.wrong.append(f"slow: not closed {_SLACK_SECONDS} s after its limit")
        finally:
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)
            line.abort()

    async def _pour(self, line: Line, name: str, data: bytes) -> None:
        """Send until the server closes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 2 * _SLACK_SECONDS
        try:
            while loop.time() < deadline:
                async with asyncio.timeout(2 * _SLACK_SECONDS):
                    await line.send(data)
        finally:
            line.abort()
        self._findings.wrong.append(f"slow {name}: taken for {2 * _SLACK_SECONDS} s")

    async def _wait(self, line: Line, name: str, limit: float) -> None:
        try:
            await line.until_closed(limit + _SLACK_SECONDS)
        except TimeoutError:
            wrong = f"slow {name}: not closed {_SLACK_SECONDS} s after its limit of {limit} s"
            self._findings.wrong.append(wrong)
        finally:
            line.abort()
