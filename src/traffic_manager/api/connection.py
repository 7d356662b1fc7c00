"""One client's connection: uvicorn's HTTP/1.1 protocol with limits and deadlines, which it has not by itself.

Bounds what a connection may hold, keeps answers in the order of their requests, refuses what no application should
see as problem documents, outlives a client that has closed its own side, and ends without losing a request.

uvicorn's class is no public contract: the version is pinned, and tests hold what is relied on here.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from asyncio import Event, TimerHandle, Transport
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import httptools
import structlog
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from traffic_manager.access.client_names import ClientCertificate
from traffic_manager.api.access import CERTIFICATE
from traffic_manager.api.flow import Flow, Queue
from traffic_manager.api.problems import Headers, instance_of, render
from traffic_manager.api.shedding import load_of
from traffic_manager.api.turns import Turns
from traffic_manager.errors import Overloaded, RequestRefused
from traffic_manager.monitoring.metrics import UNMATCHED, Metrics
from traffic_manager.monitoring.middleware import (
    CLIENT_CLOSED_REQUEST,
    CORRELATION_HEADER,
    SHED,
    correlation_id,
)

KEEP_ALIVE_S = 30.0
HEAD_S = 5.0
# Calls that read a body give up a little sooner, by themselves: this is for bodies that nobody reads.
BODY_S = 10.0
MAX_TARGET_BYTES = 8 * 1024
MAX_HEADERS = 64
MAX_HEAD_BYTES = 16 * 1024
# Data is parsed in pieces, so that few pipelined requests are taken at a time: a piece holds 220 at most.
_PIECE_BYTES = 4 * 1024
# After so many answers others have their turn on the event loop: clients may pipeline faster than we answer. Eight
# that did held a worker up for ten seconds at a time, until its parent replaced it.
_ANSWERS_AT_ONCE = 64
# A client that has closed its side may still listen, or be gone. Ordinary requests are answered by then.
_HALF_CLOSED_S = 2.0
# What a refused client still sends is taken for so long, and dropped.
_LINGER_S = 1.0
# At the end, a connection that was accepted without a request yet has so long to send it.
_FIRST_REQUEST_S = 0.5
# The extension of a scope that has the connection.
EXTENSION = "traffic_manager"
CLOSE = (b"connection", b"close")
_MALFORMED = RequestRefused(400, "malformed-request", "is not HTTP/1.1")
_HOSTS = RequestRefused(400, "malformed-request", "must name exactly one Host")
_HEAD_TOO_LARGE = RequestRefused(
    431, "head-too-large", f"a head must be at most {MAX_HEAD_BYTES} bytes of at most {MAX_HEADERS} headers"
)
_TARGET_TOO_LONG = RequestRefused(
    414, "target-too-long", f"path and query must be at most {MAX_TARGET_BYTES} bytes long"
)
_TOO_SLOW = RequestRefused(408, "request-too-slow", f"a head must be complete within {HEAD_S:.0f} s")

# In place of the event of each stream, which takes 860 bytes: nobody waits for what a stream's client sends.
_UNHEARD = Event()

log = structlog.get_logger(__name__)


class Connection(HttpToolsProtocol):
    """A connection whose requests all go to the application."""

    # Not in the dictionary: with uvicorn's 28 it would outgrow the 30 keys that instances can share.
    __slots__ = (
        "_began",
        "_fed_bytes",
        "_has_answered",
        "_held",
        "_idle_since",
        "_idle_timer",
        "_in_body",
        "_is_ours",
        "_is_over",
        "_is_shed",
        "_metrics",
        "_on_gone",
        "_refusal",
        "_running",
        "_slow_timer",
        "_turns",
        "_unsent_bytes",
        "certificate",
        "is_between",
        "on_lost",
    )

    def __init__(
        self,
        metrics: Metrics,
        turns: Turns,
        *arguments: Any,
        **more: Any,  # Any: uvicorn's own
    ) -> None:
        super().__init__(*arguments, **more)
        self._turns = turns
        self.pipeline = Queue()  # type: ignore[assignment] # has all that is asked of a deque here
        self._metrics = metrics
        self.certificate: ClientCertificate | None = None  # that the client has shown
        self.is_between = True  # no message has begun since the last one ended
        self.on_lost: Callable[[], None] | None = None  # who wants to know that it has ended
        self._is_over = False  # nothing more is read; when all is answered, it closes
        self._is_ours = False  # the application has the message at hand
        self._is_shed = False  # it was refused when its head was parsed
        self._in_body = False
        self._on_gone: Callable[[], None] | None = None  # of an answer under way that has no end
        self._has_answered = False
        self._held = b""  # came while reading was paused
        self._unsent_bytes = 0  # when it was looked at last
        self._fed_bytes = 0  # since the message began, or since its last bytes of body
        self._running: RequestResponseCycle | None = None
        self._refusal: bytes | None = None  # to be sent when all before it is answered
        self._idle_since = self._began = 0.0
        self._idle_timer: TimerHandle | None = None
        self._slow_timer: TimerHandle | None = None

    # What uvicorn's server and asyncio call.

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as uvicorn does
        """Begin."""
        super().connection_made(transport)
        self.flow = Flow(transport, self)
        self._idle_since = self._began = self.loop.time()
        self._idle_timer = self.loop.call_later(KEEP_ALIVE_S, self._on_idle_timer)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        for timer in (self._idle_timer, self._slow_timer):
            if timer is not None:
                timer.cancel()
        self._held = b""
        self.pipeline.clear()
        if self._running is not None:
            # uvicorn tells the newest request's application alone, which may be waiting behind this one.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        for told in (self._on_gone, self.on_lost):
            if told is not None:
                told()
        self._on_gone = self.on_lost = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as there is room for more requests."""
        if self._held:
            self._held += data
        else:
            self._feed(data)

    def eof_received(self) -> bool | None:  # type: ignore[override] # uvicorn never stays open
        """Stay open for the answers to whole requests, though not for long: most such clients are gone. TLS ends for
        both sides at once."""
        if not self.is_waiting or self._in_body or self._on_gone is not None or self.scheme == "https":
            return None
        self._is_over = True
        self.loop.call_later(_HALF_CLOSED_S, self.transport.close)
        return True

    def shutdown(self) -> None:
        """End when what has been asked is answered; the answers say that they are the last by now."""
        if self.is_waiting:
            super().shutdown()
        elif self.is_between and self._has_answered and not self._has_unread():
            self.transport.close()
        else:  # a request is on its way, or may be
            self.loop.call_later(_FIRST_REQUEST_S, self._close_if_idle)

    def pause_writing(self) -> None:
        """Take no more requests while the client does not take the answers."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self.flow.resume_reading()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Take note; the scope is made when it is known that one is needed."""
        self.url = b""
        self.headers = []
        self.is_between = self._is_ours = self._is_shed = self._in_body = False
        self._fed_bytes = 0
        self._began = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self.url += url
        if len(self.url) > MAX_TARGET_BYTES:
            raise _TARGET_TOO_LONG

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Those that follow a body are nobody's: they must not pass for headers."""
        if not self._in_body:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Answer here, or have the application answer."""
        self._in_body = True
        self._disarm()
        if self._is_over or self.transport.is_closing():
            return  # RFC 9112, 9.6: no request after the last one is processed
        if len(self.headers) > MAX_HEADERS or self._is_head_too_large():
            raise _HEAD_TOO_LARGE
        if self._hosts() != 1 and self.parser.get_http_version() == "1.1":
            raise _HOSTS  # else a proxy before us may take the request for another's
        if self.take() or (self._turns.may_refuse and self._shed()) or self.keep():
            return
        self.hand_over()

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on."""
        self._fed_bytes = 0
        if self._is_ours:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self.is_between, self._in_body = True, False
        self._disarm()
        if self._is_ours:
            super().on_message_complete()
            self._is_over = self._is_over or not self.cycle.keep_alive

    def _shed(self) -> bool:
        """Refuse the request here if there is too much of its kind and it is an ordinary one: as the application
        would, at a tenth of the cost. What follows of it is read and dropped."""
        method = self.parser.get_method().decode()
        if self.is_waiting or method == "HEAD" or self.parser.should_upgrade():
            return False
        if not self.parser.should_keep_alive():
            return False
        path = self.url.partition(b"?")[0].decode("latin-1")
        load = load_of(method, path)
        if load is None or CLOSE in self.server_state.default_headers or not self._turns.refuses(load):
            return False
        self.transport.write(self._rendered(Overloaded(), is_counted=True))
        self.answered()
        self._is_shed = True
        return True

    # For the lanes.

    def take(self) -> bool:
        """Answer the request, whose head has been parsed, here; False if the application has to."""
        return False

    def keep(self) -> bool:
        """Keep the message, whose head has been parsed, here until its body has come; False if nobody does."""
        return False

    def hand_over(self) -> None:
        """Let the application answer the message at hand, whose head has been parsed."""
        self._begin_scope()
        super().on_headers_complete()
        self._is_ours = True

    def stand_in(self, cycle: RequestResponseCycle) -> None:
        """Let *cycle* be under way, in the place of one of the application's; it calls `on_response_complete`."""
        self.cycle = self._running = cycle
        self._is_over = self._is_over or not cycle.keep_alive

    @property
    def is_waiting(self) -> bool:
        """True if the client waits for an answer to a request that has been taken."""
        return self.cycle is not None and not self.cycle.response_complete

    def answered(self) -> None:
        """Take note that a request was answered."""
        self.server_state.total_requests += 1
        self._idle_since = self.loop.time()
        self._has_answered = True

    # What follows an answer.

    def on_response_complete(self) -> None:
        """Go on with the next request, or with the end. Called by the cycle of the application's answer."""
        self.answered()
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if cycle.disconnected:
                self._end()  # its body was broken, and what comes after it is unknown
                return
            self._start_asgi_task(cycle, app)
            self.flow.resume_reading()
        elif self._is_over:
            self._end()
        else:
            self.flow.resume_reading()

    def _end(self) -> None:
        if self._refusal is None:
            self.transport.close()
            return
        # RFC 9112, 9.6: closed while the client still sends, the refusal could be lost on the way to it.
        self.transport.write(self._refusal)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        load = load_of(cycle.scope["method"], cycle.scope["path"])
        start = partial(super()._start_asgi_task, cycle, app)
        if load is None:
            start()
        elif self._turns.may_refuse and self._turns.refuses(load):
            _refuse_in(cycle, start)
        else:
            begin = partial(self._begin_in_turn, cycle, start, self.loop.time())
            self._turns.take(load, begin, partial(_refuse_in, cycle, begin))

    def _begin_in_turn(self, cycle: RequestResponseCycle, start: Callable[[], None], since: float) -> None:
        """Have the application answer, unless the client went away while it waited for its turn."""
        if cycle.disconnected:
            method, waited_s = cycle.scope["method"], self.loop.time() - since
            self._metrics.observe_request(method, UNMATCHED, CLIENT_CLOSED_REQUEST, waited_s)
        else:
            start()

    # Parsing.

    def _feed(self, data: bytes) -> None:
        enough = self.server_state.total_requests + _ANSWERS_AT_ONCE
        for start in range(0, len(data), _PIECE_BYTES):
            if self._is_over or self.transport.is_closing():
                return
            if self.flow.read_paused:
                self._held = data[start:]
                return
            if self.server_state.total_requests >= enough:
                self._put_off(data[start:])
                return
            self._parse(data[start : start + _PIECE_BYTES])
        if self._slow_timer is None and not self.is_between:
            self.arm()

    def _put_off(self, data: bytes) -> None:
        """Parse *data* when others have had their turn."""
        self._held = data
        self.flow.pause_reading()
        self.flow.resume_reading()

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # What follows is of a protocol that we do not speak. The request itself is answered.
            self._is_over = True
            self.cycle.keep_alive = False
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RequestRefused) else _MALFORMED)
        else:
            self._fed_bytes += len(piece)
            if not self.is_between and self._fed_bytes > MAX_HEAD_BYTES + _PIECE_BYTES:
                self._refuse(_HEAD_TOO_LARGE)

    def feed_held(self) -> None:
        """Parse what was held, and read on if there is room then."""
        self.flow.read_paused = False
        held, self._held = self._held, b""
        if not self.transport.is_closing():
            self._feed(held)
            if not self.flow.read_paused:
                self.transport.resume_reading()

    @property
    def holds(self) -> bool:
        """True if there is data that could not be parsed yet."""
        return bool(self._held)

    def _hosts(self) -> int:
        return [name for name, _ in self.headers].count(b"host")

    def _is_head_too_large(self) -> bool:
        if not self._fed_bytes:  # it came within one piece
            return False
        return (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES
        )

    def _begin_scope(self) -> None:
        """Make what uvicorn makes for every message when it begins."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.scope["extensions"] = {EXTENSION: {"connection": self}}
        if self.certificate is not None:
            self.scope["extensions"][CERTIFICATE] = self.certificate  # type: ignore[assignment] # ASGI: dictionaries
        headers_of_scope = self.headers
        headers_of_scope += headers
        self.expect_100_continue = (b"expect", b"100-continue") in [(n, v.lower()) for n, v in headers]

    # For streams.

    def begin_endless(self, on_gone: Callable[[], None]) -> None:
        """Take note that the answer under way has no end: a client that closes its own side is gone then. Calls
        *on_gone* when it is, so that no second task has to wait for that in `receive`."""
        self._on_gone = on_gone
        if self._running is not None:
            self._running.message_event = _UNHEARD
        if self.transport.is_closing():
            on_gone()

    def give_up(self, grace_s: float) -> None:
        """Let the application end an answer that its client may not take: what is sent now is buffered all the same,
        and the connection is cut if that is not taken within *grace_s*."""
        self.flow.resume_writing()
        self.loop.call_later(grace_s, self.transport.abort)

    # Refusals.

    def _refuse(self, error: RequestRefused) -> None:
        """Answer with *error* and end, when the requests before are answered."""
        self._is_over = True
        self._disarm()
        is_torn = self._in_body and self._is_ours and self.is_waiting
        is_answered = self._in_body and (self._is_shed or (self._is_ours and not self.is_waiting))
        if is_answered or (is_torn and self.cycle.response_started):
            self.transport.close()  # a request has one answer
            return
        self._refusal = self._rendered(error, is_counted=not is_torn, is_last=True)
        if is_torn:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not self.is_waiting or (is_torn and not self.pipeline):
            self._end()

    def _rendered(
        self, error: RequestRefused | Overloaded, *, is_counted: bool, is_last: bool = False
    ) -> bytes:
        given = [value for name, value in self.headers or [] if name == CORRELATION_HEADER]
        request_id = correlation_id(given)
        path = self.url.partition(b"?")[0].decode("latin-1") if self.url else "/"
        status, headers, body = render(error, instance_of(path), request_id)
        if is_counted:  # else the application's side counts it
            method = self.parser.get_method().decode() if self.url else ""
            self._metrics.observe_request(method, UNMATCHED, status, self.loop.time() - self._began)
        log.debug("request_refused", status=status, reason=str(error), correlation_id=request_id)
        headers += [
            (b"content-length", b"%d" % len(body)),
            (CORRELATION_HEADER, request_id.encode()),
        ]
        general = [h for h in self.server_state.default_headers if h[0] != b"connection"]
        return as_bytes(status, [*general, *headers, *([CLOSE] if is_last else [])], body)

    # Time.

    def arm(self) -> None:
        """Give what is on its way so long from now."""
        self._slow_timer = self.loop.call_later(self.patience_s(), self.on_slow)

    def patience_s(self) -> float:
        """Return how long what is on its way may take."""
        return BODY_S if self._in_body else HEAD_S

    def on_slow(self) -> None:
        """Refuse a head, or give a body up, that has taken too long."""
        self._slow_timer = None
        if not self._in_body:
            self._refuse(_TOO_SLOW)
            return
        self._is_over = True
        if self.is_waiting:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def _on_idle_timer(self) -> None:
        """Close if nothing was asked, or taken, for long enough. Looked at then, not set anew for each request."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes and unsent_bytes == self._unsent_bytes:
            self.transport.abort()  # what is left would never be taken
            return
        self._unsent_bytes = unsent_bytes
        left_s = self._idle_since + KEEP_ALIVE_S - self.loop.time()
        if not self.is_between or self.is_waiting or unsent_bytes:
            left_s = KEEP_ALIVE_S
        if left_s <= 0:
            self.transport.close()
        else:
            self._idle_timer = self.loop.call_later(left_s, self._on_idle_timer)

    def _close_if_idle(self) -> None:
        if self.is_between and not self.is_waiting and not self._has_unread():
            self.transport.close()

    def _has_unread(self) -> bool:
        """Return whether something has come that has not been parsed yet."""
        if self._held:
            return True
        with suppress(OSError, AttributeError):
            unread = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
            return int.from_bytes(unread, sys.byteorder) > 0
        return False

    def _disarm(self) -> None:
        if self._slow_timer is not None:
            self._slow_timer.cancel()
            self._slow_timer = None


def _refuse_in(cycle: RequestResponseCycle, start: Callable[[], None]) -> None:
    """Have the application refuse what it would have answered."""
    cycle.scope["state"][SHED] = True
    start()


def as_bytes(status: int, headers: Headers, body: bytes) -> bytes:
    """Return an answer as it goes over the wire."""
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join((STATUS_LINE[status], *lines, b"\r\n", body))
