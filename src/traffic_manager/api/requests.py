"""What of a request is checked before FastAPI sees it: sizes, media type, doubled names, strict JSON.

Python's JSON reader takes NaN, lone surrogates, doubled keys and any depth; each has been somebody's incident.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect

from traffic_manager.errors import FieldProblem, InvalidInput, RequestRefused

MAX_BODY_BYTES = 16 * 1024
# The most that a batch of 1,000 can be, by the end of its path: URLs of 2,048 characters, or names of 128.
_BATCH_BODY_BYTES = {"/batch": 4 * 1024 * 1024, "/resolve": 1024 * 1024}
MAX_QUERY_BYTES = 4 * 1024
MAX_PARAMETERS = 32
BODY_S = 10.0
MAX_DEPTH = 8
_MAX_INTEGER = 2**53 - 1
_MAX_SHOWN = 64
# Possessive, and to the end where a quote is missing: 16 KiB of `\\"` held the event loop for 0.9 s otherwise.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_holds_bad_text = re.compile("[\x00\ud800-\udfff]").search

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRoute(APIRoute):
    """A FastAPI route that refuses what is doubled, unknown, too large or not JSON."""

    def get_route_handler(self) -> Handler:
        """Return FastAPI's handler with our checks before it."""
        handle = super().get_route_handler()
        known = _query_names(self.dependant)
        takes_body = self.body_field is not None
        limit = _BATCH_BODY_BYTES.get(self.path[self.path.rindex("/") :], MAX_BODY_BYTES)

        async def checked(request: Request) -> Response:
            check_path(request.scope)
            join_headers(request.scope)
            query_of(request.scope["query_string"], known)
            if takes_body:
                body = await read_body(request, limit)
                parse = partial(parse_json, body)
                # A large one on a thread: 4 MiB of small things take a second to read.
                document = await asyncio.to_thread(parse) if len(body) > MAX_BODY_BYTES else parse()
                request = _ParsedRequest(request, body, document)
            return await handle(request)

        return checked


def _query_names(dependant: Dependant) -> set[str]:
    """Return the query parameters of a handler and of all that it depends on."""
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_query_names(below) for below in dependant.dependencies))


class _ParsedRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, body: bytes, document: object) -> None:
        super().__init__(request.scope, request.receive)
        self._read = body
        self._document = document

    async def body(self) -> bytes:
        return self._read

    async def json(self) -> Any:  # Any: starlette's signature
        return self._document


def check_path(scope: Any) -> None:  # Any: an ASGI scope
    """Raise InvalidInput if a name in the path holds a slash, which would make two names of one."""
    if b"%2f" in (scope.get("raw_path") or b"").lower():
        raise InvalidInput(FieldProblem("path", "invalid-name", "must not hold an escaped slash"))


def join_headers(scope: Any) -> None:  # Any: an ASGI scope
    """Make one header of several of one name, as RFC 9110 (5.3) reads them; the framework would read one of them,
    and overlook a precondition in the other."""
    joined: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        joined[name] = b"%b, %b" % (joined[name], value) if name in joined else value
    if len(joined) < len(scope["headers"]):
        scope["headers"] = list(joined.items())


def query_of(query_string: bytes, known: Iterable[str]) -> dict[str, str]:
    """Return the query's parameters. Raises InvalidInput for doubled and unknown ones."""
    if len(query_string) > MAX_QUERY_BYTES:
        raise _parameter("query", "invalid-parameter", f"must be at most {MAX_QUERY_BYTES} bytes long")
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
            separator="&",
        )
    except ValueError as error:
        detail = f"must be percent-encoded UTF-8 of at most {MAX_PARAMETERS} parameters"
        raise _parameter("query", "invalid-parameter", detail) from error
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise _parameter(shown(name, "query"), "unknown-parameter", "is not a parameter of this call")
        if name in found:
            raise _parameter(name, "doubled-parameter", "must be given once")
        found[name] = value
    return found


def _written_as(pattern: str, what: str) -> BeforeValidator:
    """Refuse other spellings than *pattern*: pydantic would read `1_0`, ` 1` and `on` as well."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def check(text: str) -> str:
        if not matches(text):
            raise PydanticCustomError("spelling", "must be {what}", {"what": what})
        return text

    return BeforeValidator(check)


WHOLE_NUMBER = _written_as(r"[0-9]{1,9}", "a whole number")
NUMBER = _written_as(r"[0-9]{1,9}(\.[0-9]{1,20})?(e-?[0-9]{1,2})?", "a number")
TRUE_OR_FALSE = _written_as("true|false", "true or false")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body. Raises RequestRefused as soon as it is known to be of no use."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower()
    if media_type.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise RequestRefused(415, "unsupported-media-type", "content-type must be application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestRefused(415, "unsupported-encoding", "the body must not be compressed")
    too_large = RequestRefused(413, "body-too-large", f"the body must be at most {limit} bytes long")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except ClientDisconnect as error:
        raise RequestRefused(400, "incomplete-body", "the connection ended before the body") from error
    except TimeoutError as error:
        raise RequestRefused(408, "request-too-slow", f"a body must come within {BODY_S:.0f} s") from error
    return bytes(body)


def parse_json(body: bytes) -> object:
    """Return the document. Raises InvalidInput for anything that two readers could understand differently."""
    _check_depth(body)
    try:
        document: object = json.loads(
            body.decode("utf-8"),
            # Raw, NUL is no JSON and half of a surrogate pair no UTF-8: only escapes can spell them.
            object_pairs_hook=_checked_object if b"\\u" in body else _object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _body("malformed-json", "must be JSON in UTF-8") from error
    if not isinstance(document, dict):
        raise _body("malformed-json", "must be a JSON object")
    return document


def shown(name: str, otherwise: str) -> str:
    """Return *name*, which somebody sent, as far as it may be shown; *otherwise* if it holds strange characters."""
    return name[:_MAX_SHOWN] if name.isascii() and name.isprintable() else otherwise


def _check_depth(body: bytes) -> None:
    """Refuse deep nesting before parsing: the reader would recurse as deep."""
    depth = 0
    for bracket in _STRING.sub(b"", body).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise _body("nested-too-deep", f"must not nest deeper than {MAX_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        doubled = next(name for name, count in counts.items() if count > 1)
        raise InvalidInput(
            FieldProblem(shown(doubled, "body"), "duplicate-key", "stands twice in its object")
        )
    return found


def _checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON values
    for name, value in pairs:
        for text in (name, *(value if isinstance(value, list) else (value,))):
            if isinstance(text, str):
                _check_text(text)
    return _object(pairs)


def _check_text(text: str) -> None:
    """Refuse what some stores and encoders cannot hold: NUL and lone surrogates."""
    if _holds_bad_text(text):
        raise _body("malformed-json", "must not hold NUL or half of a surrogate pair")


def _constant(name: str) -> float:
    raise _body("number-out-of-range", f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > _MAX_INTEGER:
        raise _body("number-out-of-range", "integers must be within 2^53 - 1")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _body("number-out-of-range", "numbers must be finite")
    return value


def _parameter(name: str, code: str, detail: str) -> InvalidInput:
    return InvalidInput(FieldProblem(name, code, detail))


def _body(code: str, detail: str) -> InvalidInput:
    return InvalidInput(FieldProblem("body", code, detail))
