"""The fast way for resolves, below ASGI: known answers straight from the mirror onto the connection.

Takes only the plain request: the four names in the documented order, unescaped, and no header that asks for more.
Everything else goes on to the documented route, which gives the same answer byte for byte. On a hit there is no
database, no lock, no other thread and no task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from hashlib import sha256
from time import perf_counter
from typing import Any, NamedTuple

from traffic_manager.api.connection import CLOSE, MAX_HEAD_BYTES, Connection, as_bytes
from traffic_manager.api.context import Parts
from traffic_manager.api.kept import Kept
from traffic_manager.api.problems import Headers, render
from traffic_manager.api.rendered import Front, Rendered, rendered
from traffic_manager.api.resolve import RESOLVE_PATH
from traffic_manager.api.write_lane import BODY_S, PlainWrite, WriteLane
from traffic_manager.errors import Overloaded, RateLimited, TrafficManagerError
from traffic_manager.monitoring.middleware import CORRELATION_HEADER, accepted_id
from traffic_manager.monitoring.resolve_counts import RESOLVE_ENDPOINT
from traffic_manager.monitoring.spans import Parent
from traffic_manager.routing.ports import Head

# The grammar of names without + (a space in a query) and without anything percent-encoded.
_NAME = rb"([A-Za-z0-9](?:[A-Za-z0-9._~-]{0,126}[A-Za-z0-9])?)"
_names_in = re.compile(
    rb"%b\?tenant=%b&service=%b&env=%b&version=%b" % (RESOLVE_PATH.encode(), _NAME, _NAME, _NAME, _NAME)
).fullmatch
_ASKS_FOR_MORE = frozenset(
    {b"cache-control", b"tm-min-revision", b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
)
# As most clients write it. Looked for as it is: to search for every spelling takes longer than to parse the head.
_ID_SPELLINGS = (b"\r\nX-Correlation-ID: ", b"\r\nx-correlation-id: ", b"\r\nX-Correlation-Id: ")

# 5,000 routes' answers take 4 MB, and 5,000 request lines 3 MB. More than these would be better spent on the mirror.
_RENDERED_BYTES = 8 * 1024 * 1024
_LINES_BYTES = 8 * 1024 * 1024
# Of headers there are as many as clients that do not keep to one connection each: proxies, above all.
_MANNERS_BYTES = 2 * 1024 * 1024
# With a request line of a plain resolve before them, a head of such headers is not too large.
_MOST_HEADER_BYTES = MAX_HEAD_BYTES // 2
_OBJECT_BYTES = 400  # of the Python objects around the bytes, measured with tracemalloc
_IDS_AT_ONCE = 256
_VERSION = b" HTTP/1.1"
_END = b"\r\n\r\n"
_LAST = b"\r\nconnection: close\r\n\r\n"


class Asked(NamedTuple):
    """What a plain resolve asks for: all that its request line says."""

    key: str  # the text of the route's key
    tenant: str
    env: str


class Manner(NamedTuple):
    """How it asks: what its headers say, but for its correlation id."""

    mark: bytes | None  # of the credential in them; None without: then the connection's certificate counts
    if_none_match: bytes | None
    is_last: bool  # the client wants no further answer on this connection
    parent: Parent | None  # what it is a part of, where there are traces


# A plain resolve, with its own correlation id.
Plain = tuple[Asked, Manner, bytes | None]
_NO_MANNER = Manner(None, None, False, None)


class Lane:
    """What the connections of one worker share: parsed heads, answers rendered as bytes, and counts of them.

    Of a head, the request line and what follows it are remembered apart: a client asks for many routes in one manner.
    """

    def __init__(self, parts: Parts) -> None:
        self._mirror = parts.mirror
        self._look_up = parts.resolver.look_up
        self._stale_age_s = parts.follower.stale_age_s
        self._gate = parts.gate
        self.mark_of = parts.gate.mark_of
        self.permits = parts.gate.permits_resolve
        self._count = parts.metrics.resolved_in_lane
        self._observe = parts.metrics.observe_request
        self._overload = parts.overload
        self._limiter = parts.limiter
        self._counted_as = parts.gate.counted_as
        self._count_flagged = parts.metrics.tm_resolve_flagged_total.inc
        self._rendered: Kept[str, Rendered] = Kept(_RENDERED_BYTES, _size_of_rendered)
        self._lines: Kept[bytes, Asked] = Kept(_LINES_BYTES, _size_of_line)
        self._manners: Kept[bytes, Manner] = Kept(_MANNERS_BYTES, _size_of_manner)
        self._ids = _new_ids()
        self._front = Front([], Head("", 0, 0), 0, None)

    def parent_in(self, _headers: Headers) -> Parent | None:
        """Return what a request with these headers is a part of: nobody asks."""
        return None

    def asked_before(self, line: bytes) -> Asked | None:
        """Return what was asked for when *line*, the first of a head, came before."""
        return self._lines.get(line)

    def manner_before(self, headers: bytes) -> Manner | None:
        """Return how *headers*, all of a head but its first line, were parsed when they came before."""
        return self._manners.get(self._kept_as(headers))

    def remember(self, line: bytes, headers: bytes, asked: Asked, manner: Manner) -> None:
        """Take note of how a head of *line* and *headers* is parsed. Any other line of a plain resolve before these
        headers, and any other headers of one after this line, are parsed the same."""
        self._lines.put(line, asked)
        self._manners.put(self._kept_as(headers), manner)

    def _kept_as(self, headers: bytes) -> bytes:
        """Return what stands for *headers* in memory: a hash if they may hold a credential."""
        return headers if self._gate.is_open else sha256(headers).digest()

    def answer(
        self,
        asked: Asked,
        manner: Manner,
        mark: bytes | None,
        correlation_id: bytes | None,
        general: Headers,
    ) -> bytes | None:
        """Return the whole answer to whom *mark* stands for, beginning with the *general* headers; None if the mirror
        cannot tell."""
        if self._overload.stands and self._overload.refuses_resolve():
            return self._refusal(Overloaded(), manner, correlation_id, general)
        began = perf_counter()
        key, mirror = asked.key, self._mirror
        kept = self._rendered.get(key)
        if kept is None or kept.moment != mirror.moment or not mirror.is_complete:
            kept = self._up_to_date(key, kept)
            if kept is None:
                return None
        if self._limiter.limits_resolves:
            try:
                self._limiter.charge_resolve(self._counted_as(mark), asked.tenant)
            except RateLimited as error:
                return self._refusal(error, manner, correlation_id, general)
        front = self._front_of(general, kept.as_of)
        request_id = correlation_id or next(self._ids)
        end = _LAST if manner.is_last and not front.closes else _END
        status, answer = kept.answer(front, request_id, end, manner.if_none_match)
        self._count(status, perf_counter() - began)
        return answer

    def _refusal(
        self, error: TrafficManagerError, manner: Manner, correlation_id: bytes | None, general: Headers
    ) -> bytes:
        request_id = correlation_id or next(self._ids)
        status, headers, body = render(error, RESOLVE_PATH, request_id.decode())
        self._observe("GET", RESOLVE_ENDPOINT, status, 0.0)
        headers += [(b"content-length", b"%d" % len(body)), (CORRELATION_HEADER, request_id)]
        if manner.is_last and CLOSE not in general:
            headers.append(CLOSE)
        return as_bytes(status, [*general, *headers], body)

    def closes(self) -> bool:
        """Return whether the general headers of the last answer say that the connection is closed."""
        return self._front.closes

    def _up_to_date(self, key: str, kept: Rendered | None) -> Rendered | None:
        """Return the answer as the mirror has it now, None if it cannot tell."""
        known, head = self._look_up(key), self._mirror.head
        if known is None or head is None:
            return None
        as_of, entry = known
        history = self._mirror.histories
        if kept is None or not kept.is_of(entry, history):
            kept = rendered(key, entry, head, history)
            self._rendered.put(key, kept)
        kept.moment, kept.as_of = self._mirror.moment, as_of
        return kept

    def _front_of(self, general: Headers, as_of: int) -> Front:
        front, head, age_s = self._front, self._mirror.head, self._stale_age_s()
        # The server makes a new list of headers each second, the follower a new head for each change.
        if not (
            front.general is general and front.head is head and front.as_of == as_of and front.age_s == age_s
        ):
            assert head is not None  # noqa: S101 the mirror knew an answer
            front = self._front = Front(general, head, as_of, age_s)
        if age_s is not None:
            self._count_flagged()
        return front


class LaneConnection(Connection):
    """A connection with lanes: what is neither a plain resolve nor a plain write goes to the application, as on any
    other."""

    __slots__ = ("_headers", "_lane", "_manner", "_messages", "_taken", "_write", "_writes")

    def __init__(
        self, lane: Lane, writes: WriteLane, *arguments: Any, **more: Any
    ) -> None:  # Any: uvicorn's own
        super().__init__(*arguments, **more)
        self._lane = lane
        self._writes = writes
        self._messages = 0  # that began in the data at hand
        self._taken: Plain | None = None  # the last of them, if it was answered here
        # What followed the line of the last plain resolve, and what it says: a client mostly sends the same again.
        # None at first: nothing is what follows a line that has not come whole.
        self._headers: bytes | None = None
        self._manner = _NO_MANNER
        self._write: PlainWrite | None = None  # whose body is on its way

    def connection_lost(self, exc: Exception | None) -> None:
        """End. What has not come whole is the application's to refuse, and to count."""
        self._give_write_away()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer a head whose parts came before without parsing it again; parse anything else."""
        if not self.is_between or not data.startswith(b"GET "):
            super().data_received(data)
            return
        line, _, headers = data.partition(_VERSION)
        if self._answer_again(line, headers):
            return
        self._messages, self._taken = 0, None
        super().data_received(data)
        if self._messages == 1 and self._taken is not None and self.is_between:
            self._remember(line, headers, *self._taken)

    def _answer_again(self, line: bytes, headers: bytes) -> bool:
        """Answer if it is known what *line* and *headers*, all of a head, say."""
        asked = self._lane.asked_before(line)
        if asked is None or b"\0" in headers:  # else they are none, but what `_split` makes of some
            return False
        if headers == self._headers:
            return self._answer(asked, self._manner, None)
        without, correlation_id = _split(headers)
        kept = headers if correlation_id is None else without
        if kept != self._headers:
            manner = self._lane.manner_before(kept)
            if manner is None:
                return False
            self._headers, self._manner = kept, manner
        return self._answer(asked, self._manner, correlation_id)

    def _remember(
        self, line: bytes, headers: bytes, asked: Asked, manner: Manner, correlation_id: bytes | None
    ) -> None:
        """Take note of what a head says. Another well-formed correlation id in the place of one that was taken over
        would be parsed the same."""
        if line != b"GET %b" % self.url or len(headers) > _MOST_HEADER_BYTES:
            return
        without, found = _split(headers)
        if correlation_id is None:
            self._lane.remember(line, headers, asked, manner)
        elif found == correlation_id:
            self._lane.remember(line, without, asked, manner)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._messages += 1

    def on_body(self, body: bytes) -> None:
        """Keep the body of a plain write."""
        super().on_body(body)
        if self._write is not None:
            self._write.body += body

    def on_message_complete(self) -> None:
        """Begin a plain write, if it proves to be one."""
        write, self._write = self._write, None
        if write is not None and not write.begin():
            self._give_away(write)
        super().on_message_complete()

    def take(self) -> bool:
        """Answer the request, whose head has been parsed, here; False if the application has to."""
        plain = self._as_plain_resolve()
        self._taken = plain if plain is not None and self._answer(*plain) else None
        return self._taken is not None

    def keep(self) -> bool:
        """Keep a plain write, unless an answer is under way, which it would have to wait for."""
        if not self.is_waiting:
            self._write = self._writes.plain_write(self)
        return self._write is not None

    def patience_s(self) -> float:
        """Return how long what is on its way may take."""
        return BODY_S if self._write is not None else super().patience_s()

    def on_slow(self) -> None:
        """Let the application wait for a body, for as long as any other."""
        if self._write is None:
            super().on_slow()
        else:
            self._give_write_away()
            self.arm()

    def _give_write_away(self) -> None:
        write, self._write = self._write, None
        if write is not None:
            self._give_away(write)

    def _give_away(self, write: PlainWrite) -> None:
        """Let the application answer, with as much of the body as has come."""
        self.hand_over()
        if write.body:
            super().on_body(bytes(write.body))

    def _as_plain_resolve(self) -> Plain | None:
        """Return what is asked for; None if it is for the documented route."""
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
        key = b"/".join(names.groups()).decode()
        tenant, _, env, _ = key.split("/")
        mark, is_last = self._lane.mark_of(self.headers), not self.parser.should_keep_alive()
        manner = Manner(mark, if_none_match, is_last, self._lane.parent_in(self.headers))
        return Asked(key, tenant, env), manner, accepted_id(given_ids)

    def _answer(self, asked: Asked, manner: Manner, correlation_id: bytes | None) -> bool:
        """Answer, if it is this request's turn and the mirror can tell."""
        mark = manner.mark
        if mark is None and self.certificate is not None:
            mark = self.certificate.mark
        if not self._lane.permits(mark, asked.tenant, asked.env):
            return False  # not admitted lately, or not permitted: the documented route tells
        if self.is_waiting or self.transport.is_closing():
            return False
        answer = self._lane.answer(asked, manner, mark, correlation_id, self.server_state.default_headers)
        if answer is None:
            return False
        self.transport.write(answer)
        self.answered()
        if manner.is_last or self._lane.closes():
            self.transport.close()
        return True


def _new_ids() -> Iterator[bytes]:
    """Yield correlation ids, from random bytes that are taken many at a time."""
    while True:
        digits = os.urandom(12 * _IDS_AT_ONCE).hex().encode()
        yield from (digits[i : i + 24] for i in range(0, len(digits), 24))


def _split(headers: bytes) -> tuple[bytes, bytes | None]:
    """Return *headers* with NUL in the place of their correlation id, and that id; None without a well-formed one. No
    head that is parsed holds NUL."""
    for spelling in _ID_SPELLINGS:
        at = headers.find(spelling)
        if at >= 0:
            begin = at + len(spelling)
            end = headers.find(b"\r", begin)
            given = headers[begin:end]
            return b"%b\0%b" % (headers[:begin], headers[end:]), accepted_id([given])
    return headers, None


def _size_of_rendered(text: str, answer: Rendered) -> int:
    return len(text) + answer.size() + _OBJECT_BYTES


def _size_of_line(line: bytes, asked: Asked) -> int:
    return len(line) + 2 * len(asked.key) + _OBJECT_BYTES


def _size_of_manner(headers: bytes, manner: Manner) -> int:
    return len(headers) + len(manner.if_none_match or b"") + _OBJECT_BYTES
