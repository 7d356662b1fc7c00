"""The fast way for changes of one route, before FastAPI: from the request straight to the writer.

Takes only the plain request: a well-formed key, a small flat JSON object with the fields of its call and nothing odd,
no precondition. Everything else goes on unchanged to the documented route, and so does whatever is refused before the
writer is asked: it gives the same answer byte for byte, and refusals are worded in one place.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from traffic_manager.access.permissions import Principal
from traffic_manager.api.context import Parts
from traffic_manager.api.problems import Headers
from traffic_manager.api.writes import Rendered, operation_of, write_one
from traffic_manager.errors import TrafficManagerError
from traffic_manager.routing.operations import Author, Operation, Verb

# ASGI's own types are dictionaries of anything.
Scope = Any
Receive = Any
Send = Any
App = Any
Refuse = Callable[[Scope, TrafficManagerError], Rendered]

ROUTES_PATH = "/api/v1/routes"
_NAME = rb"([A-Za-z0-9._~+-]+)"
_names_in = re.compile(rb"%b/%b/%b/%b/%b" % (ROUTES_PATH.encode(), _NAME, _NAME, _NAME, _NAME)).fullmatch
_MAX_BODY_BYTES = 16 * 1024
_ASKS_FOR_MORE = frozenset(
    {b"if-match", b"if-none-match", b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"}
)
# Many clients send a body right behind its head. One that takes longer is waited for by the documented route.
_BODY_S = 0.05
_NAMES = ("tenant", "service", "env", "version")
# Finds the end of every name of an object, and now and then something in a string.
_colons_in = re.compile(rb'"[ \t\n\r]*:').findall

Document = Mapping[str, Any]  # Any: JSON values


class _Call(NamedTuple):
    """A call that the lane knows. *path_format* is what the metrics call it by, as the documented route's."""

    path_format: str
    verb: Verb
    required: frozenset[str]
    optional: frozenset[str] = frozenset()


_PUT = _Call(
    f"{ROUTES_PATH}/{{tenant}}/{{service}}/{{env}}/{{version}}",
    Verb.PUT,
    frozenset({"url"}),
    frozenset({"is_active"}),
)
_POSTS = {
    ROUTES_PATH.encode(): _Call(ROUTES_PATH, Verb.CREATE, frozenset({*_NAMES, "url"})),
    **{
        f"{ROUTES_PATH}/{verb}".encode(): _Call(f"{ROUTES_PATH}/{verb}", verb, frozenset(_NAMES))
        for verb in (Verb.ACTIVATE, Verb.DEACTIVATE)
    },
}


class WriteLane:
    """An ASGI app behind the door: makes plain changes, hands everything else to *app*. *refuse* renders errors."""

    def __init__(self, app: App, parts: Parts, refuse: Refuse) -> None:
        self._app = app
        self._parts = parts
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = _call_of(scope) if scope["type"] == "http" else None
        if call is None:
            await self._app(scope, receive, send)
            return
        taken = await _take(receive)
        operation = self._operation_of(scope, call, taken)
        if operation is None:
            await self._app(scope, _Replay(taken, receive), send)
            return
        scope["route"] = call  # for the metrics
        status, headers, body = await self._answer(scope, operation)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, operation: Operation) -> Rendered:
        state = scope["state"]
        author = Author(state["principal"].name, state["correlation_id"])
        try:
            return await write_one(self._parts, author, operation)
        except TrafficManagerError as error:
            status, headers, body = self._refuse(scope, error)
            return status, [*headers, (b"content-length", b"%d" % len(body))], body

    def _operation_of(self, scope: Scope, call: _Call, taken: Document | None) -> Operation | None:
        """Return what is asked for; None if it is for the documented route."""
        if taken is None or taken.get("more_body"):
            return None
        document = _flat_object(taken.get("body", b""))
        if document is None or not _has_fields(document, call):
            return None
        names = _names_in(scope["raw_path"]) if call is _PUT else None
        key = [name.decode() for name in names.groups()] if names else [document[name] for name in _NAMES]
        caller: Principal = scope["state"]["principal"]
        try:
            # The decision on access is in here.
            return operation_of(
                self._parts, caller, call.verb, key, document.get("url"), document.get("is_active")
            )
        except TrafficManagerError:
            return None  # nothing was done; the documented route says why


class _Replay:
    """Receives *taken* once more, then what follows it."""

    def __init__(self, taken: Any, receive: Receive) -> None:
        self._taken = taken
        self._receive = receive

    async def __call__(self) -> Any:
        """Return the next message."""
        taken, self._taken = self._taken, None
        return taken if taken is not None else await self._receive()


async def _take(receive: Receive) -> Any:
    """Return the first message of a body, None if it does not come at once."""
    try:
        async with asyncio.timeout(_BODY_S):
            return await receive()
    except TimeoutError:
        return None


def _call_of(scope: Scope) -> _Call | None:
    """Return what is called, None if the head alone says that it is for the documented route."""
    call = None
    if scope["method"] == "POST":
        call = _POSTS.get(scope["raw_path"])
    elif scope["method"] == "PUT" and _names_in(scope["raw_path"]):
        call = _PUT
    return call if call and not scope["query_string"] and _is_plain(scope["headers"]) else None


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
