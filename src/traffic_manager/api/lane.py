"""The fast way for resolves, in front of FastAPI: known answers straight from the mirror.

Takes only the plain request: the four names in the documented order, unescaped, and no header that asks for more.
Everything else goes on to the documented route, which gives the same answer byte for byte. On a hit there is no
database, no lock and no other thread.
"""

from __future__ import annotations

import re
from time import perf_counter
from typing import Any

from traffic_manager.api.context import Parts
from traffic_manager.api.resolve import RESOLVE_PATH, render_answer
from traffic_manager.monitoring.middleware import CORRELATION_HEADER, correlation_id
from traffic_manager.monitoring.resolve_counts import ResolveOutcome
from traffic_manager.routing.model import RouteKey

# ASGI's own types are dictionaries of anything.
Scope = Any
Receive = Any
Send = Any
App = Any

# As it was sent: an escaped path is not this one to the documented route either.
_PATH = RESOLVE_PATH.encode()
# The grammar of names without + (a space in a query) and without anything percent-encoded.
_NAME = rb"([A-Za-z0-9](?:[A-Za-z0-9._~-]{0,126}[A-Za-z0-9])?)"
_is_plain = re.compile(rb"tenant=%b&service=%b&env=%b&version=%b" % (_NAME, _NAME, _NAME, _NAME)).fullmatch
_ASKS_FOR_MORE = frozenset(
    {b"cache-control", b"tm-min-revision", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)


class Lane:
    """An ASGI app: answers plain resolves, hands everything else to *app*."""

    def __init__(self, app: App, parts: Parts) -> None:
        self._app = app
        self._resolver = parts.resolver
        self._metrics = parts.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "http" and scope["raw_path"] == _PATH and scope["method"] == "GET":
            answer = self._answer(scope)
            if answer is not None:
                status, headers, body = answer
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self._app(scope, receive, send)

    def _answer(self, scope: Scope) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
        began = perf_counter()
        query: bytes = scope["query_string"]
        names = _is_plain(query)
        asked = _headers(scope["headers"])
        if names is None or asked is None or b".." in query:
            return None
        tenant, service, env, version = names.groups()
        key = RouteKey.known(tenant.decode(), service.decode(), env.decode(), version.decode())
        answer = self._resolver.from_memory(key)
        if answer is None:
            return None
        if_none_match, request_id = asked
        status, headers, body = render_answer(answer, key, if_none_match, request_id)
        if status != 304:
            headers.append((b"content-length", str(len(body)).encode()))
        headers.append((CORRELATION_HEADER, request_id.encode()))
        outcome = ResolveOutcome.HIT if answer.entry else ResolveOutcome.NEGATIVE
        self._metrics.resolved_in_lane(outcome, status, perf_counter() - began)
        if answer.stale_age_s is not None:
            self._metrics.tm_resolve_flagged_total.inc()
        return status, headers, body


def _headers(headers: list[tuple[bytes, bytes]]) -> tuple[bytes | None, str] | None:
    """Return If-None-Match and the correlation id; None if a header asks for the documented route."""
    if_none_match = None
    given_ids = []
    for name, value in headers:
        if name in _ASKS_FOR_MORE or (name == b"if-none-match" and if_none_match is not None):
            return None
        if name == b"if-none-match":
            if_none_match = value
        elif name == CORRELATION_HEADER:
            given_ids.append(value)
    return if_none_match, correlation_id(given_ids)
