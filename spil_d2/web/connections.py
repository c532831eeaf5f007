"""Connections that cost the server little, whatever their clients do or leave undone.

uvicorn waits for a client as long as the client likes: for the head of a request, for its body, and
for the answer to be taken. Nothing of that reaches the application, so that it is limited here.
"""

from __future__ import annotations

import asyncio
import enum
import json
import math

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .settings import WebSettings

# Long enough for the client to read a refusal before the connection is cut.
_REST_SECONDS = 2.0
_LOOKS_PER_PATIENCE = 8

_TOO_SLOW = json.dumps({"message": "the request took too long to arrive: send it again"}).encode()


class _Wait(enum.Enum):
    """What a connection waits for."""

    HEAD = enum.auto()
    BODY = enum.auto()
    REST_OF_ANSWERED = enum.auto()
    TAKING = enum.auto()
    NOT_THE_CLIENT = enum.auto()


class BoundedConnection(H11Protocol):
    """One connection, looked at a few times within the shortest of its limits."""

    settings = WebSettings()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit a client; the connection that has waited longest makes room for it."""
        super().connection_made(transport)
        patience = (self.settings.head_seconds, self.settings.body_seconds)
        self._tick = min(1.0, min(*patience, self.settings.answer_seconds) / _LOOKS_PER_PATIENCE)
        self._phase: tuple[_Wait, object] = (_Wait.HEAD, None)
        self._since, self._received = self.loop.time(), 0
        self._timer = self.loop.call_later(self._tick, self._look)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent."""
        self._received += len(data)
        super().data_received(data)

    def _make_room(self) -> None:
        if len(self.connections) <= self.settings.max_connections:
            return
        others = [one for one in self.connections if isinstance(one, BoundedConnection)]
        waiting = [
            one
            for one in others
            if one is not self and one._now_in()[0] is not _Wait.NOT_THE_CLIENT
        ]
        if waiting:
            oldest = min(waiting, key=lambda one: one._since)
            # Now, not when the loop tells it: many may come within one turn of the loop.
            self.connections.discard(oldest)
            oldest.transport.abort()

    def _look(self) -> None:
        phase, now = self._now_in(), self.loop.time()
        if phase != self._phase:
            self._phase, self._since, self._received = phase, now, 0
        elif now - self._since > self._patience():
            self._give_up()
        self._timer = self.loop.call_later(self._tick, self._look)

    def _now_in(self) -> tuple[_Wait, object]:
        """What is waited for, and the request that it belongs to."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            return _Wait.TAKING, None
        if self.conn.their_state is h11.IDLE:
            return _Wait.HEAD, self.cycle
        if self.conn.their_state is h11.SEND_BODY:
            return (
                _Wait.REST_OF_ANSWERED if self.cycle.response_complete else _Wait.BODY
            ), self.cycle
        return _Wait.NOT_THE_CLIENT, self.cycle

    def _patience(self) -> float:
        """Seconds that the present phase may last."""
        settings = self.settings
        return {
            _Wait.HEAD: settings.head_seconds,
            _Wait.BODY: settings.body_seconds + self._received / settings.body_rate,
            _Wait.REST_OF_ANSWERED: _REST_SECONDS,
            _Wait.TAKING: settings.answer_seconds,
            _Wait.NOT_THE_CLIENT: math.inf,
        }[self._phase[0]]

    def _give_up(self) -> None:
        kind = self._phase[0]
        if kind is _Wait.HEAD and self.conn.trailing_data[0]:
            self._refuse()
        elif kind is _Wait.HEAD:
            # Browsers open connections ahead of need: an answer would meet their next request.
            self.transport.close()
        elif kind is _Wait.BODY and not self.cycle.response_started:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._refuse()
        else:
            self.transport.abort()

    def _refuse(self) -> None:
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(_TOO_SLOW))),
            ("connection", "close"),
        ]
        head = h11.Response(status_code=408, headers=headers, reason=b"Request Timeout")
        for event in (head, h11.Data(data=_TOO_SLOW), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connections_of(settings: WebSettings) -> type[BoundedConnection]:
    """The class of connections with these limits, for `uvicorn.Config(http=...)`."""
    return type("BoundedConnection", (BoundedConnection,), {"settings": settings})
