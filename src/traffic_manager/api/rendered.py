"""Answers to resolves as the lane sends them: rendered as bytes once, and joined with what each request changes.

The parts come from `api/resolve.py`, where the documented route has them from, too.
"""

from __future__ import annotations

from traffic_manager.api.problems import Headers
from traffic_manager.api.resolve import found, general_headers, matches, missing, tag_of, unchanged
from traffic_manager.monitoring.middleware import CORRELATION_HEADER
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.ports import Entry, Head

_ID_FOLLOWS = CORRELATION_HEADER + b": "
_ANY_ID = "#"  # stands in a rendered body for the correlation id; no name holds it


class Front:
    """Status lines and general headers: the same for all answers of one moment."""

    def __init__(self, general: Headers, head: Head, as_of: int, age_s: int | None) -> None:
        self.general, self.head, self.as_of, self.age_s = general, head, as_of, age_s
        self.closes = (b"connection", b"close") in general
        headers = _lines(general + general_headers(head.epoch8, as_of, age_s))
        self.line_200 = b"HTTP/1.1 200 OK\r\n" + headers
        self.line_304 = b"HTTP/1.1 304 Not Modified\r\n" + headers
        self.line_404 = b"HTTP/1.1 404 Not Found\r\n" + headers


class Found:
    """The answer for an active route in the mirror's *history*. *moment* and *as_of*: when it was last seen to be
    the one."""

    __slots__ = ("_body", "_head", "_head_304", "_history", "_revision", "_tag", "as_of", "moment")

    def __init__(self, text: str, entry: Entry, head: Head, history: int) -> None:
        self.moment = self.as_of = 0
        self._history, self._revision = history, entry.revision
        self._tag = tag_of(head.epoch8, entry)
        headers, body = found(RouteKey.known(*text.split("/")), entry, self._tag)
        # A copy: what orjson returns holds 4 KB for as long as it lives, and 10,000 answers would take 47 MB, not 8.
        self._body = bytes(memoryview(body))
        headers.append((b"content-length", b"%d" % len(self._body)))
        self._head = _lines(headers) + _ID_FOLLOWS
        self._head_304 = _lines(unchanged(self._tag)) + _ID_FOLLOWS

    def is_of(self, entry: Entry | None, history: int) -> bool:
        """Return whether this is the answer for *entry*: in one history a revision has one URL. Not in one epoch:
        while the database cannot be written to, a history that forked keeps the epoch of the one that it left."""
        return entry is not None and entry.revision == self._revision and history == self._history

    def answer(
        self, front: Front, request_id: bytes, end: bytes, if_none_match: bytes | None
    ) -> tuple[int, bytes]:
        """Return the status and the whole answer."""
        if if_none_match is not None and matches(if_none_match, self._tag):
            return 304, b"".join((front.line_304, self._head_304, request_id, end))
        return 200, b"".join((front.line_200, self._head, request_id, end, self._body))

    def size(self) -> int:
        """Return how many bytes it takes, but for objects of the same size in all."""
        return len(self._head) + len(self._head_304) + len(self._body) + len(self._tag)


class Missing:
    """The same for a key without an active route. The correlation id stands in the body as well."""

    __slots__ = ("_after_id", "_before_id", "_head", "as_of", "moment")

    def __init__(self, text: str) -> None:
        self.moment = self.as_of = 0
        headers, body = missing(RouteKey.known(*text.split("/")), _ANY_ID)
        self._before_id, self._after_id = body.split(_ANY_ID.encode())
        self._head = _lines(headers)

    def is_of(self, entry: Entry | None, _history: int) -> bool:
        """Return whether this is the answer."""
        return entry is None

    def answer(
        self, front: Front, request_id: bytes, end: bytes, _if_none_match: bytes | None
    ) -> tuple[int, bytes]:
        """Return the status and the whole answer: 404 is decided before If-None-Match."""
        body = b"%b%b%b" % (self._before_id, request_id, self._after_id)
        length = b"content-length: %d\r\n" % len(body)
        return 404, b"".join((front.line_404, self._head, length, _ID_FOLLOWS, request_id, end, body))

    def size(self) -> int:
        """Return how many bytes it takes, but for objects of the same size in all."""
        return len(self._head) + len(self._before_id) + len(self._after_id)


Rendered = Found | Missing


def rendered(text: str, entry: Entry | None, head: Head, history: int) -> Rendered:
    """Return the answer for the key with this *text* in the mirror's *history*."""
    return Missing(text) if entry is None else Found(text, entry, head, history)


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)
