"""Raw HTTP/1.1 over a socket: what no polite client would send, and every byte that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import h11

_CHUNK = 65536
_MAX_HEAD = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP; 0 where the connection ended without an answer.
        headers: names in small letters.
        body: decoded from its chunks.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict:
        """The body, which must be JSON."""
        return json.loads(self.body)


@dataclass
class Watch:
    """All that was received.

    Attributes:
        forbidden: bytes that no answer may hold.
        seen: those that one held nevertheless.
        received: number of bytes.
        lines: connections that are open.
    """

    forbidden: Sequence[bytes]
    seen: set[bytes] = field(default_factory=set)
    received: int = 0
    lines: set[Line] = field(default_factory=set)

    def look(self, before: bytes, data: bytes) -> bytes:
        """Note new data; returns what the next call needs as `before`."""
        self.received += len(data)
        text = before + data
        self.seen.update(one for one in self.forbidden if one in text)
        return text[-max(map(len, self.forbidden)) :]

    async def hang_up(self) -> None:
        """Drop all connections that are still open."""
        for line in list(self.lines):
            line.abort()
        # A transport is closed in the next turn of the loop.
        await asyncio.sleep(0.01)


class Line:
    """One connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: Watch
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._watch = watch
        self._tail = b""
        self._left = b""
        watch.lines.add(self)

    @classmethod
    async def open(cls, port: int, watch: Watch, small_buffer: bool = False) -> Line:
        """Connect to the server.

        Args:
            port: on 127.0.0.1.
            watch: sees all that is received.
            small_buffer: the client's side takes next to nothing that is not read.
        """
        one = socket.socket()
        one.setblocking(False)
        if small_buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
        except BaseException:
            one.close()
            raise
        limit = 1024 if small_buffer else _CHUNK
        return cls(*await asyncio.open_connection(sock=one, limit=limit), watch)

    async def send(self, data: bytes) -> None:
        """Send bytes; OSError where the server has closed the connection."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, method: str = "GET", seconds: float = 60.0) -> Answer:
        """The next answer; status 0 where the connection ends before.

        Args:
            method: of the request: answers to HEAD have no body.
            seconds: TimeoutError after these.
        """
        async with asyncio.timeout(seconds):
            return await self._read_answer(method)

    async def until_closed(self, seconds: float) -> None:
        """Read until the server closes the connection; TimeoutError where it does not in time."""
        async with asyncio.timeout(seconds):
            while await self._read():
                pass

    def end_of_sending(self) -> None:
        """Close the sending half."""
        self._writer.write_eof()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._watch.lines.discard(self)
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection."""
        self._watch.lines.discard(self)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> bytes:
        try:
            data = await self._reader.read(_CHUNK)
        except OSError:
            return b""
        self._tail = self._watch.look(self._tail, data)
        return data

    async def _read_answer(self, method: str) -> Answer:
        parser = h11.Connection(h11.CLIENT, _MAX_HEAD)
        # The parser wants to have sent what is answered.
        parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        if self._left:
            parser.receive_data(self._left)
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await self._read()
                if not data and (head is None or parser.their_state is h11.IDLE):
                    return Answer(0)
                parser.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                self._left = parser.trailing_data[0]
                names = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                return Answer(head.status_code, names, bytes(body))


def request(
    method: str,
    target: str | bytes,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    host: str = "127.0.0.1",
) -> bytes:
    """A request as it goes over the wire; nothing is checked or escaped.

    Args:
        method: any word.
        target: path and query.
        body: with its Content-Length, where there is one.
        headers: further ones.
        host: "" for none.
    """
    target = target.encode("utf-8", "surrogateescape") if isinstance(target, str) else target
    lines = [method.encode() + b" " + target + b" HTTP/1.1"]
    named = [("Host", host)] if host else []
    named += headers
    if body:
        named.append(("Content-Length", str(len(body))))
    lines += [f"{name}: {value}".encode("utf-8", "surrogateescape") for name, value in named]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def post_json(target: str, body: object) -> bytes:
    """A POST of JSON; bytes are sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request("POST", target, data, [("Content-Type", "application/json")])
