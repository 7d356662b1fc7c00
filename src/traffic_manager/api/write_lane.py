"""The fast way for changes of one route, below ASGI: from the connection straight to the writer, and back.

Takes only the plain request: a well-formed key, a small flat JSON object with the fields of its call and nothing odd,
no precondition. Everything else goes on unchanged to the documented route, and so does whatever is refused before the
writer is asked: it gives the same answer byte for byte, and refusals are worded in one place.
"""

from __future__ import annotations

import re
from asyncio import Event
from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import Principal
from traffic_manager.api.connection import CLOSE, Connection, as_bytes
from traffic_manager.api.context import Parts, author_of
from traffic_manager.api.problems import Headers, instance_of, render, render_internal
from traffic_manager.api.writes import Rendered, operation_of, rendered
from traffic_manager.errors import Overloaded, RateLimited, TrafficManagerError
from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.middleware import CLIENT_CLOSED_REQUEST, CORRELATION_HEADER, correlation_id
from traffic_manager.monitoring.spans import Span
from traffic_manager.routing.operations import Author, Operation, Verb
from traffic_manager.routing.registry import Written
from traffic_manager.routing.resolver import CATCH_UP_S

ROUTES_PATH = "/api/v1/routes"
# Many clients send a body right behind its head. One that takes longer is waited for by the documented route.
BODY_S = 0.05
_NAME = rb"([A-Za-z0-9._~+-]+)"
_names_in = re.compile(rb"%b/%b/%b/%b/%b" % (ROUTES_PATH.encode(), _NAME, _NAME, _NAME, _NAME)).fullmatch
_MAX_BODY_BYTES = 16 * 1024
_ASKS_FOR_MORE = frozenset(
    {b"if-match", b"if-none-match", b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"}
)
_NAMES = ("tenant", "service", "env", "version")
# Finds the end of every name of an object, and now and then something in a string.
_colons_in = re.compile(rb'"[ \t\n\r]*:').findall
# Stands where uvicorn's cycle has its own for each request: nobody waits here for what a client sends.
_UNHEARD = Event()

Document = Mapping[str, Any]  # Any: JSON values

log = structlog.get_logger(__name__)


class _Call(NamedTuple):
    """A call that the lane knows. *path_format* is what the metrics call it by, as the documented route's."""

    method: str
    path_format: str
    verb: Verb
    required: frozenset[str]
    optional: frozenset[str] = frozenset()


_PUT = _Call(
    "PUT",
    f"{ROUTES_PATH}/{{tenant}}/{{service}}/{{env}}/{{version}}",
    Verb.PUT,
    frozenset({"url"}),
    frozenset({"is_active"}),
)
_POSTS = {
    ROUTES_PATH.encode(): _Call("POST", ROUTES_PATH, Verb.CREATE, frozenset({*_NAMES, "url"})),
    **{
        f"{ROUTES_PATH}/{verb}".encode(): _Call("POST", f"{ROUTES_PATH}/{verb}", verb, frozenset(_NAMES))
        for verb in (Verb.ACTIVATE, Verb.DEACTIVATE)
    },
}


class WriteLane:
    """What the connections of one worker share to take plain changes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def plain_write(self, connection: Connection) -> PlainWrite | None:
        """Return the write whose head was parsed on *connection*; None if it is for the documented route."""
        url, headers = connection.url, connection.headers
        names, call = None, None
        method = connection.parser.get_method()
        if method == b"PUT" and (names := _names_in(url)):
            call = _PUT
        elif method == b"POST":
            call = _POSTS.get(url)
        if call is None or connection.parser.get_http_version() != "1.1" or not _is_plain(headers):
            return None
        try:
            principal = self._parts.gate.admit(headers, connection.certificate)
            given = [value for name, value in headers if name == CORRELATION_HEADER]
            span = self._parts.tracing.request(headers) if self._parts.tracing else None
            context = None if span is None else span.context
            request_id, client = correlation_id(given), connection.client
            author = author_of(self._parts, principal, request_id, client, headers, context)
        except TrafficManagerError:
            return None  # the documented route says so, before it reads the body
        key = [name.decode() for name in names.groups()] if names else None
        return PlainWrite(self._parts, connection, call, key, principal, author, span)


class PlainWrite(RequestResponseCycle):
    """A change that is asked for on *connection*, from its head to its answer. Under way, it stands where uvicorn has
    its own cycle of request and response, of which only what is read from outside is here."""

    def __init__(
        self,
        parts: Parts,
        connection: Connection,
        call: _Call,
        names: Sequence[str] | None,
        principal: Principal,
        author: Author,
        span: Span | None,
    ) -> None:
        self._span = span  # told of if the answer comes from here
        self._began = perf_counter()
        self._parts = parts
        self._connection = connection
        self._call = call
        self._names = names
        self._principal = principal
        self._author = author
        self._path = connection.url
        self._correlation_id = author.correlation_id
        self._operation: Operation | None = None
        self._asked = 0.0
        self.body = bytearray()
        self.message_event = _UNHEARD
        self.keep_alive = connection.parser.should_keep_alive()
        self.disconnected = self.response_started = self.response_complete = False

    def begin(self) -> bool:
        """Ask the writer, now that the body is complete. False if it is for the documented route: nothing is done."""
        try:
            operation = self._operation = self._as_operation()
        except RateLimited as error:
            self._connection.stand_in(self)
            self._send(self._refusal(error))
            return True
        if operation is None:
            return False
        self._connection.stand_in(self)
        self._parts.turns.take(Load.WRITES, partial(self._submit, operation), self._refuse_late)
        return True

    def _submit(self, operation: Operation) -> None:
        if self.disconnected:  # while it waited for its turn
            self._record(CLIENT_CLOSED_REQUEST, is_shed=False)
            return
        self._asked = perf_counter()
        self._parts.registry.submit(operation, self._author, self._on_committed)

    def _refuse_late(self) -> None:
        if self.disconnected:
            self._record(CLIENT_CLOSED_REQUEST, is_shed=False)
            return
        self._send(self._refusal(Overloaded()), is_shed=True)

    def _as_operation(self) -> Operation | None:
        document = _flat_object(bytes(self.body))
        if document is None or not _has_fields(document, self._call):
            return None
        names = self._names or [document[name] for name in _NAMES]
        url, is_active = document.get("url"), document.get("is_active")
        try:
            # The decision on access is in here.
            operation = operation_of(
                self._parts, self._principal, self._author, self._call.verb, names, url, is_active
            )
        except TrafficManagerError:
            return None  # the documented route says why
        self._parts.limiter.charge(Kind.WRITES, self._principal.counted_as, operation.key.tenant)
        return operation

    def _on_committed(self, answer: Written | Exception) -> None:
        """Go on once this worker's own readers see it (or later: then the caller's token makes them wait)."""
        is_written = isinstance(answer, Written)
        is_replay = isinstance(answer, Written) and answer.is_replay
        self._parts.metrics.written(is_written, perf_counter() - self._asked, is_replay=is_replay)
        if isinstance(answer, Exception):
            self._send(self._refusal(answer))
        elif answer.has_changes:
            self._parts.follower.tell(answer.head.revision, CATCH_UP_S, lambda: self._on_seen(answer))
        else:
            self._on_seen(answer)

    def _on_seen(self, written: Written) -> None:
        assert self._operation is not None  # noqa: S101 it was asked for
        self._send(rendered(self._parts, self._operation, written))

    def _refusal(self, error: Exception) -> Rendered:
        instance = instance_of(self._path.decode())
        if isinstance(error, TrafficManagerError):
            status, headers, body = render(error, instance, self._correlation_id)
        else:
            log.error(
                "unhandled_error",
                method=self._call.method,
                endpoint=self._call.path_format,
                exc_info=error,
                **self._told_as(),
            )
            status, headers, body = render_internal(instance, self._correlation_id)
        return status, [*headers, (b"content-length", b"%d" % len(body))], body

    def _send(self, answer: Rendered, *, is_shed: bool = False) -> None:
        """Count, answer, and let the connection go on."""
        self._record(answer[0], is_shed=is_shed)
        if self.disconnected:
            return
        self.response_complete = True
        connection = self._connection
        connection.transport.write(self._as_bytes(answer, connection.server_state.default_headers))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def _as_bytes(self, answer: Rendered, general: Headers) -> bytes:
        status, headers, body = answer
        headers = [*general, *headers, (CORRELATION_HEADER, self._correlation_id.encode())]
        if CLOSE in general:
            self.keep_alive = False
        elif not self.keep_alive:
            headers.append(CLOSE)
        return as_bytes(status, headers, body)

    def _record(self, status: int, *, is_shed: bool) -> None:
        call, seconds = self._call, perf_counter() - self._began
        self._parts.metrics.observe_request(call.method, call.path_format, status, seconds)
        path = self._path.decode()
        facts = call.method, path, call.path_format, status, seconds
        self._parts.access_log.answered(*facts, is_shed=is_shed, ids=self._told_as())
        if self._span is not None:
            self._span.answered(call.method, call.path_format, path, status, self._correlation_id)

    def _told_as(self) -> Mapping[str, str]:
        """Return what log lines know the request by."""
        ids = {} if self._span is None else self._span.ids
        return {"correlation_id": self._correlation_id, **ids}


def _is_plain(headers: Headers) -> bool:
    """Return whether a small JSON body follows, and nothing is asked for that the lane does not know."""
    media_type, length = None, None
    for name, value in headers:
        if name == b"content-type" and media_type is None:
            media_type = value
        elif name == b"content-length" and length is None:
            length = value
        elif name in _ASKS_FOR_MORE or name in (b"content-type", b"content-length"):
            return False
    if media_type != b"application/json" or length is None:
        return False
    return length.isdigit() and int(length) <= _MAX_BODY_BYTES


def _flat_object(body: bytes) -> Document | None:
    """Return the object of *body*, None if it is none or could be understood differently."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    # Of a name that stands twice the reader keeps one.
    return document if isinstance(document, dict) and len(_colons_in(body)) == len(document) else None


def _has_fields(document: Document, call: _Call) -> bool:
    """Return whether *document* has the fields of *call*, and they are of their types."""
    optional = document.keys() - call.required
    if len(document) - len(optional) != len(call.required) or not optional <= call.optional:
        return False
    return all(isinstance(document[name], str) for name in call.required) and all(
        isinstance(document[name], bool) for name in optional
    )
