"""Gives every HTTP request its correlation id, its metrics, its line in the access log and, if it fails
unexpectedly, its one error line and its answer.

Add it with `app.add_middleware(RequestMonitoring, metrics=..., on_error=...)`, outermost. Wrapped around the
whole application instead, it would never see an error before Starlette's own plain-text 500 has been sent.
The resolve lane, which answers below ASGI, uses `accepted_id` and `Metrics.resolved_in_lane` itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import structlog
from structlog.contextvars import bound_contextvars

from traffic_manager.monitoring.access_log import AccessLog
from traffic_manager.monitoring.metrics import METHODS, OTHER_METHOD, UNMATCHED, Metrics
from traffic_manager.monitoring.spans import Span, current

if TYPE_CHECKING:
    from traffic_manager.monitoring.tracing import Tracing

# Any: the types of the ASGI specification, whose values depend on their keys.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OnError = Callable[[Scope, Receive, Send, str], Awaitable[None]]

CORRELATION_HEADER = b"x-correlation-id"
# As nginx counts it: the client went away before there was an answer.
CLIENT_CLOSED_REQUEST = 499
# Of the state of a request that is refused because too much is going on.
SHED = "is_shed"
_is_acceptable = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch

log = structlog.get_logger(__name__)


def new_correlation_id() -> str:
    """Return 24 hex digits that no other request has."""
    # 0.5 µs; a counter behind a random prefix takes half, but forked workers would share the prefix.
    return os.urandom(12).hex()


def correlation_id(given: Sequence[bytes]) -> str:
    """Return the request's id: the one value in *given*, those of its X-Correlation-ID headers, if it is
    well-formed, else a new one."""
    taken = accepted_id(given)
    return taken.decode("ascii") if taken is not None else new_correlation_id()


def accepted_id(given: Sequence[bytes]) -> bytes | None:
    """Return the one value in *given* if it is well-formed, None if an id has to be made."""
    return given[0] if len(given) == 1 and _is_acceptable(given[0]) else None


class RequestMonitoring:
    """Watches the requests that *app* answers.

    *clock*: monotonic seconds. *on_error* answers a request that failed unexpectedly, if no answer has begun.
    *access_log* writes the lines of answered requests. *tracing* makes the spans of those that are sampled, but for
    the paths *untraced*. *beat* is called whenever a request begins or ends: while the event loop takes one after the
    other of thousands that came at once, its timers wait for all of them, and still it is not wedged.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
        *,
        on_error: OnError,
        access_log: AccessLog,
        tracing: Tracing | None = None,
        untraced: Collection[str] = (),
        beat: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._beat = beat or _nothing
        self._clock = clock
        self._on_error = on_error
        self._access_log = access_log
        self._tracing = tracing
        self._untraced = untraced

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on and record it; leave everything else alone."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = correlation_id([value for name, value in scope["headers"] if name == CORRELATION_HEADER])
        scope.setdefault("state", {})["correlation_id"] = request_id
        began = self._clock()
        self._beat()
        answer = _Answer(send, request_id)
        span = self._span_of(scope)
        with bound_contextvars(correlation_id=request_id), current(span):
            try:
                await self._answer(scope, receive, answer)
            finally:
                self._record(scope, answer, self._clock() - began, span)
                self._beat()

    def _span_of(self, scope: Scope) -> Span | None:
        if self._tracing is None or scope["path"] in self._untraced:
            return None
        return self._tracing.request(scope["headers"])

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:
            answer.status = answer.status or CLIENT_CLOSED_REQUEST
            raise
        except Exception:
            # Not raised again: the server would log the stack a second time. If an answer has begun, it ends
            # here without its end, and the server closes the connection, so the client sees that it is torn.
            log.exception("unhandled_error", method=_method(scope), endpoint=route_template(scope))
            if answer.status is None:
                await self._on_error(scope, receive, answer.send, answer.correlation_id)

    def _record(self, scope: Scope, answer: _Answer, seconds: float, span: Span | None) -> None:
        endpoint, status = route_template(scope), answer.status or 500
        self._metrics.observe_request(scope["method"], endpoint, status, seconds)
        is_shed = scope["state"].get(SHED, False)
        method, path = _method(scope), scope["path"]
        self._access_log.answered(method, path, endpoint, status, seconds, is_shed=is_shed)
        if span is not None:
            span.answered(method, endpoint, path, status, answer.correlation_id)


class _Answer:
    """Puts the correlation id on the answer and remembers its status, None while it has not begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.correlation_id = request_id
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            others = [header for header in message.get("headers", ()) if header[0] != CORRELATION_HEADER]
            message["headers"] = [*others, (CORRELATION_HEADER, self.correlation_id.encode("ascii"))]
        await self._send(message)


def _nothing() -> None:
    pass


def route_template(scope: Scope) -> str:
    """Return the template of the route that took the request, UNMATCHED if none did: one of few, never a
    path. Routes of a mounted application appear without the place it is mounted at."""
    route = scope.get("route")
    # FastAPI 0.165 leaves the route of an included router there without the prefix; the whole template is in
    # the context of its inclusion. A test holds all these cases against the installed version.
    context = scope.get("fastapi", {}).get("effective_route_context")
    if context is not None:
        route = context.starlette_route or context
    if route is None:
        route = _route_of_endpoint(scope)
    return getattr(route, "path_format", None) or UNMATCHED


def _route_of_endpoint(scope: Scope) -> object | None:
    """Return the plain route or mount that took the request: FastAPI tells only its endpoint."""
    endpoint = scope.get("endpoint")
    for route in getattr(scope.get("app"), "routes", ()) if endpoint else ():
        if endpoint in (getattr(route, "endpoint", None), getattr(route, "app", None)):
            return cast("object", route)
    return None


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else OTHER_METHOD
