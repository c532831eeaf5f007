"""Who may ask the server, and what browsers may do with its answers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOST = re.compile(r"[A-Za-z0-9._\-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
# h11 has a limit of its own, which what comes in one piece passes by.
_MAX_HEAD = 32 * 2**10
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Refuses what another web site sends through the user's browser; adds safe headers.

    A page on the user's own machine has no password, so that three things must hold: the request
    names this server by its address or a known name (else a foreign name may have been rebound to
    it), a request that changes something comes from a page of this server, and no other site may
    embed the pictures.
    """

    def __init__(self, app: ASGIApp, host_names: Collection[str]) -> None:
        """
        Args:
            app: what is guarded.
            host_names: allowed beside IP addresses, in small letters.
        """
        self._app = app
        self._host_names = frozenset(host_names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # Of a websocket: it is answered with 403.
            await send({"type": "websocket.close"})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer: ASGIApp = self._app
        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MAX_HEAD:
            answer = JSONResponse({"message": "the head of the request is too long"}, 431)
        elif refusal is not None:
            answer = JSONResponse({"message": refusal}, 403)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not is_known_host(host, self._host_names):
            return (
                f"this server does not go by the name {host!r}: open it by its IP address or as "
                f"{', '.join(sorted(self._host_names))}"
            )
        if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
            if headers.get("sec-fetch-mode") != "navigate" or method not in _SAFE_METHODS:
                return "another web site may not use this server"
        origin = headers.get("origin")
        if method not in _SAFE_METHODS and origin is not None and _netloc(origin) != host:
            return f"a page of {origin} may not use this server"
        return None


def is_known_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header names this server.

    Args:
        header: "name", "name:port", "1.2.3.4:port" or "[::1]:port".
        names: allowed ones, in small letters.
    """
    if not _HOST.fullmatch(header):
        return False
    try:
        host = urlsplit(f"//{header}").hostname or ""
        if host not in names:
            ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
