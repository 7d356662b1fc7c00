"""The fast way for resolves, below ASGI: known answers straight from the mirror onto the connection.

Takes only the plain request: the four names in the documented order, unescaped, and no header that asks for more.
Everything else goes on to the documented route, which gives the same answer byte for byte. On a hit there is no
database, no lock, no other thread and no task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from time import perf_counter
from typing import Any, NamedTuple

from traffic_manager.api.connection import Connection
from traffic_manager.api.context import Parts
from traffic_manager.api.kept import Kept
from traffic_manager.api.problems import Headers
from traffic_manager.api.resolve import (
    RESOLVE_PATH,
    found,
    general_headers,
    matches,
    missing,
    tag_of,
    unchanged,
)
from traffic_manager.monitoring.middleware import CORRELATION_HEADER, accepted_id
from traffic_manager.monitoring.resolve_counts import ResolveOutcome
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import Entry, Head

# The grammar of names without + (a space in a query) and without anything percent-encoded.
_NAME = rb"([A-Za-z0-9](?:[A-Za-z0-9._~-]{0,126}[A-Za-z0-9])?)"
_names_in = re.compile(
    rb"%b\?tenant=%b&service=%b&env=%b&version=%b" % (RESOLVE_PATH.encode(), _NAME, _NAME, _NAME, _NAME)
).fullmatch
_ASKS_FOR_MORE = frozenset(
    {b"cache-control", b"tm-min-revision", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)
_given_id = re.compile(rb"\r\nx-correlation-id: ([A-Za-z0-9._-]{1,64})\r\n", re.IGNORECASE).search

# 5,000 routes' answers take 4 MB, and 5,000 heads 2 to 4 MB. More than these would be better spent on the mirror.
_RENDERED_BYTES = 8 * 1024 * 1024
_HEADS_BYTES = 8 * 1024 * 1024
_OBJECT_BYTES = 400  # of the Python objects around the bytes, measured with tracemalloc: 330 to 390
_IDS_AT_ONCE = 256
_ID_FOLLOWS = CORRELATION_HEADER + b": "
_ANY_ID = "#"  # stands in a rendered body for the correlation id; no name holds it
_END = b"\r\n\r\n"
_LAST = b"\r\nconnection: close\r\n\r\n"


class Asked(NamedTuple):
    """A plain resolve, as its head was parsed."""

    key: str  # the text of the route's key
    if_none_match: bytes | None
    is_last: bool  # the client wants no further answer on this connection


class _Found(NamedTuple):
    """The answer for an active route, as bytes, but for what changes from request to request."""

    epoch: str
    revision: int
    tag: bytes
    head: bytes
    head_304: bytes
    body: bytes


class _Missing(NamedTuple):
    """The same for a key without an active route. The correlation id stands in the body as well."""

    head: bytes
    before_id: bytes
    after_id: bytes

    def answer(self, front: _Front, request_id: bytes, end: bytes) -> bytes:
        """Return the whole answer."""
        body = b"%b%b%b" % (self.before_id, request_id, self.after_id)
        length = b"content-length: %d\r\n" % len(body)
        return b"".join((front.line_404, self.head, length, _ID_FOLLOWS, request_id, end, body))


class _Front:
    """Status lines and general headers: the same for all answers of one moment."""

    def __init__(self, general: Headers, head: Head | None, as_of: int, age_s: int | None) -> None:
        self.general, self.head, self.as_of, self.age_s = general, head, as_of, age_s
        self.closes = (b"connection", b"close") in general
        headers = _lines(general + general_headers(head.epoch8 if head else "", as_of, age_s))
        self.line_200 = b"HTTP/1.1 200 OK\r\n" + headers
        self.line_304 = b"HTTP/1.1 304 Not Modified\r\n" + headers
        self.line_404 = b"HTTP/1.1 404 Not Found\r\n" + headers

    def is_for(self, general: Headers, head: Head, as_of: int, age_s: int | None) -> bool:
        """Return whether these are still the ones."""
        # The server makes a new list each second, the follower a new head for each change.
        return general is self.general and head is self.head and as_of == self.as_of and age_s == self.age_s


class Lane:
    """What the connections of one worker share: answers rendered as bytes, and counts of them."""

    def __init__(self, parts: Parts) -> None:
        self._mirror = parts.mirror
        self._look_up = parts.resolver.look_up
        self._stale_age_s = parts.follower.stale_age_s
        self._metrics = parts.metrics
        self._rendered: Kept[str, _Found | _Missing] = Kept(_RENDERED_BYTES, _size_of_rendered)
        self._heads: Kept[bytes, Asked] = Kept(_HEADS_BYTES, _size_of_head)
        self._ids = _new_ids()
        self._front = _Front([], None, 0, None)

    def parsed_before(self, head: bytes) -> tuple[Asked, bytes | None] | None:
        """Return how *head*, all of a request, was parsed when it came before, and its own correlation id."""
        asked = self._heads.get(head)
        if asked is not None:
            return asked, None
        if (given := _given_id(head)) and (asked := self._heads.get(_without(given))):
            return asked, given[1]
        return None

    def remember(self, head: bytes, asked: Asked, correlation_id: bytes | None) -> None:
        """Take note that *head*, all of a request, is parsed as *asked*. Another well-formed correlation id in
        the place of one that was taken over would be parsed the same."""
        if correlation_id is None:
            self._heads.put(head, asked)
        elif (given := _given_id(head)) and given[1] == correlation_id:
            self._heads.put(_without(given), asked)

    def answer(self, asked: Asked, correlation_id: bytes | None, general: Headers) -> bytes | None:
        """Return the whole answer, beginning with the *general* headers; None if the mirror cannot tell."""
        began = perf_counter()
        known, head = self._look_up(asked.key), self._mirror.head
        if known is None or head is None:
            return None
        as_of, entry = known
        front, age_s = self._front, self._stale_age_s()
        if not front.is_for(general, head, as_of, age_s):
            front = self._front = _Front(general, head, as_of, age_s)
        request_id = correlation_id or next(self._ids)
        end = _LAST if asked.is_last and not front.closes else _END
        if entry is None:
            status, outcome = 404, ResolveOutcome.NEGATIVE
            answer = self._missing(asked.key).answer(front, request_id, end)
        else:
            status, outcome = 200, ResolveOutcome.HIT
            kept = self._found(asked.key, entry, head)
            if asked.if_none_match is not None and matches(asked.if_none_match, kept.tag):
                status = 304
                answer = b"".join((front.line_304, kept.head_304, request_id, end))
            else:
                answer = b"".join((front.line_200, kept.head, request_id, end, kept.body))
        if age_s is not None:
            self._metrics.tm_resolve_flagged_total.inc()
        self._metrics.resolved_in_lane(outcome, status, perf_counter() - began)
        return answer

    def closes(self) -> bool:
        """Return whether the general headers of the last answer say that the connection is closed."""
        return self._front.closes

    def _found(self, text: str, entry: Entry, head: Head) -> _Found:
        kept = self._rendered.get(text)
        if kept.__class__ is _Found and kept.revision == entry.revision and kept.epoch == head.epoch:
            return kept
        key = RouteKey.known(*text.split("/"))
        tag = tag_of(head.epoch8, entry)
        headers, body = found(key, entry, tag)
        rendered = _Found(
            head.epoch,
            entry.revision,
            tag,
            _lines([*headers, (b"content-length", b"%d" % len(body))]) + _ID_FOLLOWS,
            _lines(unchanged(tag)) + _ID_FOLLOWS,
            body,
        )
        self._rendered.put(text, rendered)
        return rendered

    def _missing(self, text: str) -> _Missing:
        kept = self._rendered.get(text)
        if kept.__class__ is _Missing:
            return kept
        headers, body = missing(RouteKey.known(*text.split("/")), _ANY_ID)
        before, after = body.split(_ANY_ID.encode())
        rendered = _Missing(_lines(headers), before, after)
        self._rendered.put(text, rendered)
        return rendered


class LaneConnection(Connection):
    """A connection with a lane: what is no plain resolve goes to the application, as on any other."""

    def __init__(self, lane: Lane, *arguments: Any, **more: Any) -> None:  # Any: uvicorn's own
        super().__init__(*arguments, **more)
        self._lane = lane
        self._messages = 0  # that began in the data at hand
        self._taken: tuple[Asked, bytes | None] | None = None  # the last of them, if it was answered here

    def data_received(self, data: bytes) -> None:
        """Answer a head that came before without parsing it again; parse anything else."""
        if not self.is_between:
            super().data_received(data)
            return
        before = self._lane.parsed_before(data)
        if before is not None and self._answer(*before):
            return
        self._messages, self._taken = 0, None
        super().data_received(data)
        if self._messages == 1 and self._taken is not None and self.is_between:
            self._lane.remember(data, *self._taken)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._messages += 1

    def take(self) -> bool:
        """Answer the request, whose head has been parsed, here; False if the application has to."""
        plain = self._as_plain_resolve()
        self._taken = plain if plain is not None and self._answer(*plain) else None
        return self._taken is not None

    def _as_plain_resolve(self) -> tuple[Asked, bytes | None] | None:
        """Return what is asked for, and the correlation id; None if it is for the documented route."""
        names = _names_in(self.url)
        if names is None or b".." in self.url or self.parser.get_method() != b"GET":
            return None
        if_none_match, given_ids = None, []
        for name, value in self.headers:
            if name in _ASKS_FOR_MORE or (name == b"if-none-match" and if_none_match is not None):
                return None
            if name == b"if-none-match":
                if_none_match = value
            elif name == CORRELATION_HEADER:
                given_ids.append(value)
        if self.parser.get_http_version() != "1.1":
            return None
        is_last = not self.parser.should_keep_alive()
        return Asked(b"/".join(names.groups()).decode(), if_none_match, is_last), accepted_id(given_ids)

    def _answer(self, asked: Asked, correlation_id: bytes | None) -> bool:
        """Answer, if it is this request's turn, the client takes answers and the mirror can tell."""
        # This is the place for a decision on access: what is asked for is known, and nothing has been done yet.
        if self.is_waiting or self.flow.write_paused or self.transport.is_closing():
            return False
        answer = self._lane.answer(asked, correlation_id, self.server_state.default_headers)
        if answer is None:
            return False
        self.transport.write(answer)
        self.answered()
        if asked.is_last or self._lane.closes():
            self.transport.close()
        return True


def _new_ids() -> Iterator[bytes]:
    """Yield correlation ids, from random bytes that are taken many at a time."""
    while True:
        digits = os.urandom(12 * _IDS_AT_ONCE).hex().encode()
        yield from (digits[i : i + 24] for i in range(0, len(digits), 24))


def _without(given: re.Match[bytes]) -> bytes:
    """Return the head with NUL in the place of its correlation id; no head that is parsed holds one."""
    return b"%b\0%b" % (given.string[: given.start(1)], given.string[given.end(1) :])


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def _size_of_rendered(text: str, rendered: _Found | _Missing) -> int:
    return len(text) + sum(len(part) for part in rendered if isinstance(part, bytes)) + _OBJECT_BYTES


def _size_of_head(head: bytes, asked: Asked) -> int:
    return len(head) + len(asked.key) + len(asked.if_none_match or b"") + _OBJECT_BYTES
