"""Spans: what a traced request tells of its parts, such as a read of the database. Without tracing there are none,
and asking costs a look at a context variable.

`tracing.py` makes them, with a library that is an extra; nothing here needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Protocol

from structlog.contextvars import bound_contextvars

# `traceparent` and `tracestate` of W3C Trace Context: which span something is a part of.
Parent = tuple[str, str | None]
# Tells of something that is over: the span it was a part of, when it began and ended, in nanoseconds since 1970.
Record = Callable[[Parent, int, int], None]
Facts = Mapping[str, str | int]

_SPAN = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Later versions may have more behind it.
_is_traceparent = re.compile(rb"00%b|(?!00|ff)[0-9a-f]{2}%b(?:-.*)?" % (_SPAN, _SPAN)).fullmatch
_MAX_STATE_BYTES = 512


class Kind(Enum):
    """What a span is to others, as OpenTelemetry names it."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3


class Span(Protocol):
    """One thing that a process does, from its beginning to `end`. It is told of only then."""

    @property
    def context(self) -> Parent:
        """What others are told whose work is a part of this."""

    @property
    def ids(self) -> Mapping[str, str]:
        """The fields `trace_id` and `span_id` of log lines."""

    def child(self, name: str, kind: Kind) -> Span:
        """Begin a part of it."""

    def failed(self, error: BaseException) -> None:
        """Take note that it failed."""

    def answered(self, method: str, endpoint: str, path: str, status: int, correlation_id: str) -> None:
        """End it, of a request that was answered so."""

    def end(self) -> None:
        """End it."""


_current: ContextVar[Span | None] = ContextVar("span", default=None)


def current_context() -> Parent | None:
    """Return what the request that this code works for is known by to others, None if it is not traced."""
    span = _current.get()
    return None if span is None else span.context


@contextmanager
def current(span: Span | None) -> Iterator[None]:
    """Let what is done meanwhile be parts of *span*, and its log lines name it."""
    if span is None:
        yield
        return
    token = _current.set(span)
    try:
        with bound_contextvars(**span.ids):
            yield
    finally:
        _current.reset(token)


@contextmanager
def step(name: str, kind: Kind = Kind.CLIENT) -> Iterator[None]:
    """Let what is done meanwhile be a span, if the request is traced. Decorates functions, too."""
    around = _current.get()
    if around is None:
        yield
        return
    span = around.child(name, kind)
    token = _current.set(span)
    try:
        yield
    except BaseException as error:
        span.failed(error)
        raise
    finally:
        _current.reset(token)
        span.end()


def parent_in(headers: Sequence[tuple[bytes, bytes]]) -> Parent | None:
    """Return what a request with *headers*, their names in lower case, is a part of, as far as it says so in the
    form of W3C Trace Context. Else it is of no trace: a broken header is not carried on."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1 or not _is_traceparent(parents[0]):
        return None
    states = b",".join(value for name, value in headers if name == b"tracestate")
    state = states.decode("ascii") if states.isascii() and 0 < len(states) <= _MAX_STATE_BYTES else None
    return parents[0].decode(), state
