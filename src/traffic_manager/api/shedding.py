"""Refuses requests under overload before anything is done for them; see `turns.py` for when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from traffic_manager.api.access import HEALTH, METRICS
from traffic_manager.api.problems import Headers
from traffic_manager.api.resolve import RESOLVE_PATH
from traffic_manager.errors import Overloaded, TrafficManagerError
from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.middleware import SHED

# ASGI's own types are dictionaries of anything.
Scope = Any
Receive = Any
Send = Any
App = Any
Refuse = Callable[[Scope, TrafficManagerError], tuple[int, Headers, bytes]]

_NEVER = frozenset({*HEALTH, METRICS})
_BATCH_PATH = "/api/v1/routes/batch"


def load_of(method: str, path: str) -> Load | None:
    """Return what kind of load a request is; None for probes and scrapes, which are never refused."""
    is_read = method in ("GET", "HEAD")
    if path in _NEVER and is_read:
        return None
    if path == RESOLVE_PATH:
        return Load.MISSES  # the lane has answered what memory knows
    if is_read or path == _BATCH_PATH:
        return Load.LISTS
    return Load.WRITES


class Shedding:
    """An ASGI app before *app*: answers what is marked SHED with what *refuse* renders."""

    def __init__(self, app: App, refuse: Refuse) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before anything is known of it but method and path."""
        if scope["type"] == "http" and scope["state"].get(SHED):
            status, headers, body = self._refuse(scope, Overloaded())
            headers = [*headers, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)
