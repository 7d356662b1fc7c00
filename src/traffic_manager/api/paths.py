"""Paths are taken as they came: who guards a path before us must not be passed by another spelling of it.

Names may be escaped as clients do it. What the paths of calls consist of may not: escaped, `/%6detrics` and
`/api/v1/changes%2Fstream` are no paths of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from traffic_manager.api.problems import Headers
from traffic_manager.errors import RequestRefused, TrafficManagerError

# ASGI's own types are dictionaries of anything.
Scope = Any
Receive = Any
Send = Any
App = Any
Refuse = Callable[[Scope, TrafficManagerError], tuple[int, Headers, bytes]]

# Escaped letters, digits, and - . / _: what the fixed parts of our paths are made of.
_hides = re.compile(rb"%(2[D-Fd-f]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff])").search


class PathsAsTheyCame:
    """An ASGI app before *app*: answers 404, as *refuse* renders it, where a path is spelled in another way."""

    def __init__(self, app: App, refuse: Refuse) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and _hides(scope["raw_path"]):
            refusal = RequestRefused(404, "not-found", "there is nothing here")
            status, headers, body = self._refuse(scope, refusal)
            headers = [*headers, (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)
