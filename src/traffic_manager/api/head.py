"""HEAD: what GET answers, without the body (RFC 9110, 9.3.2)."""

from __future__ import annotations

from typing import Any

# ASGI's own types are dictionaries of anything.
Scope = Any
Receive = Any
Send = Any
App = Any


class HeadAsGet:
    """An ASGI application: asks *app* for GET where HEAD is asked for, and ends the answer after its head."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Any) -> None:  # Any: an ASGI message
            if message["type"] == "http.response.start":
                await send(message)
                # At once: a stream's body has no end. It sees the client as gone from now on.
                await send({"type": "http.response.body", "body": b""})

        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send_head)
        finally:
            scope.update(asked, method="HEAD")  # monitoring looks there for the route that took it
