"""How much memory the requests of all clients take together."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyMemory:
    """Counts the bodies of all requests until they are answered; refuses what is too much."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """
        Args:
            app: what gets the requests.
            max_bytes: of all bodies at a time.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._used = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def receive_counted() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            if self._used + size > self._max_bytes:
                raise HTTPException(
                    503, "the server is busy with other requests: try again", {"Retry-After": "2"}
                )
            taken += size
            self._used += size
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._used -= taken
