"""Changes as they happen, as server-sent events on one connection that stays open.

Ten thousand of them wait at one worker, so a plain ASGI application in front of FastAPI serves them, with a few
coroutines each; what it cannot take it hands on, and the documented call refuses it. A stream has no thread, no
database connection and no queue: it reads the recent changes by revision, as fast as its reader takes them.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Header, Query, Response

from traffic_manager.access.limits import Kind
from traffic_manager.access.permissions import Operation, Principal
from traffic_manager.api import sse
from traffic_manager.api.access import GivenCaller
from traffic_manager.api.changes import position_of, read_in_turn
from traffic_manager.api.connection import EXTENSION, Connection
from traffic_manager.api.context import GivenNames, GivenParts, Parts, name_filter
from traffic_manager.api.documents import documented_stream
from traffic_manager.api.portions import portions
from traffic_manager.api.requests import StrictRoute, query_of
from traffic_manager.errors import (
    FieldProblem,
    HistoryGone,
    InvalidInput,
    SourceUnavailable,
    TrafficManagerError,
)
from traffic_manager.routing.model import NAME_FIELDS, Position
from traffic_manager.routing.ports import Head, NameFilter
from traffic_manager.routing.recent_changes import Page, Told
from traffic_manager.routing.watchers import PAGE_CHANGES, Ending, Watcher

# ASGI's own types are dictionaries of anything.
Scope = Any
Receive = Any
Send = Any
App = Any

STREAM_PATH = "/api/v1/changes/stream"
_PARAMETERS = (*NAME_FIELDS, "after", "include")
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back until a buffer is full
    (b"connection", b"close"),  # whoever comes back takes a new one, to whichever worker has room
]
# A reader waits so long before it comes back; when many are sent away at once, they come back one after another.
_RETRY_MS = 1000
_RETRY = b"retry: %d\n" % _RETRY_MS
_RETRY_SPREAD_MS = 4000

_DETAILS = {
    Ending.CREDENTIAL_OVER: "your key is no longer in force; connect again with another",
    Ending.DRAINING: "this server stops; connect again",
    Ending.HISTORY_CHANGED: "the database went on with another history; read the routes again",
    Ending.HISTORY_GONE: "the changes that come next are no longer kept; read the routes again",
    Ending.LIFE_OVER: "streams last only so long; connect again",
    Ending.TOO_SLOW: "you took nothing for too long; connect again",
    Ending.UNAVAILABLE: "what comes next cannot be read now; connect again",
}


class Question(NamedTuple):
    """What a stream is asked for, by whom. *after* None: from now on."""

    caller: Principal
    wanted: NameFilter
    after: Position | None
    has_snapshot: bool


class StreamFront:
    """An ASGI application: serves streams, and hands everything else to *app*."""

    def __init__(self, app: App, parts: Parts) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] == STREAM_PATH and scope["method"] == "GET":
            try:
                scope["route"] = _StreamRoute  # for the metrics
                await _serve(self._parts, _question_of(scope), scope, send)
                return
            except TrafficManagerError:
                pass  # nothing was sent; the documented call says why
        await self._app(scope, receive, send)


class _StreamRoute:
    """What stands in the metrics for a stream that the front served."""

    path_format = STREAM_PATH


router = APIRouter(prefix="/api/v1", route_class=StrictRoute, tags=["changes"])


@router.get("/changes/stream", **documented_stream(400, 410, 503))
async def stream(
    parts: GivenParts,
    caller: GivenCaller,
    wanted: GivenNames,
    after: Annotated[
        str | None, Query(description="Changes after this: an `id`, or a revision. Default: from now on.")
    ] = None,
    include: Annotated[
        Literal["snapshot"] | None, Query(description="`snapshot`: first the active routes that match.")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(description="The last `id` that was seen; it counts before `after`.")
    ] = None,
) -> Response:
    """Send changes as they happen, as server-sent events: `change`, `progress`, and one `end`."""
    return _StreamAnswer(parts, _question(caller, wanted, after, include, last_event_id))


class _StreamAnswer(Response):
    """Serves a stream that the front has handed on."""

    def __init__(self, parts: Parts, question: Question) -> None:
        super().__init__()
        self._parts = parts
        self._question = question

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _serve(self._parts, self._question, scope, send)


def _question(
    caller: Principal,
    wanted: NameFilter,
    after: str | None,
    include: str | None,
    last_event_id: str | None,
) -> Question:
    """Return what is asked, as far as *caller* may see it. Raises Forbidden if that is nowhere."""
    position = None if after is None else position_of(after, "after")
    if last_event_id is not None:
        position = position_of(last_event_id, "Last-Event-ID")
    return Question(caller, caller.narrowed(Operation.CHANGES, wanted), position, include == "snapshot")


def _question_of(scope: Scope) -> Question:
    """Return what is asked. Raises InvalidInput where anything is unusual, Forbidden where it is not permitted."""
    given = query_of(scope["query_string"], _PARAMETERS)
    ids = [value.decode("latin-1") for name, value in scope["headers"] if name == b"last-event-id"]
    if len(ids) > 1 or given.get("include", "snapshot") != "snapshot":
        raise InvalidInput(FieldProblem("include", "invalid-parameter", "must be snapshot"))
    wanted = name_filter(*(given.get(name) for name in NAME_FIELDS))
    return _question(
        scope["state"]["principal"], wanted, given.get("after"), given.get("include"), ids[0] if ids else None
    )


async def _serve(parts: Parts, question: Question, scope: Scope, send: Send) -> None:
    """Serve the stream until it ends. Raises TrafficManagerError before anything is sent, or never."""
    if not scope["state"].get("is_charged"):  # by the front, which could not begin it
        parts.limiter.charge(Kind.LISTS, question.caller.counted_as, question.wanted.only_tenant)
        scope["state"]["is_charged"] = True
    head, start = await _start(parts, question)
    start_at = head.revision if start is None else start
    scope["headers"].clear()  # all is known, and they would last as long as the stream
    with parts.watching(question.caller, question.wanted, start_at) as watcher:
        stream = _Stream(parts, watcher, head.epoch8, send, scope["extensions"][EXTENSION]["connection"])
        await stream.run(has_snapshot=start is None and question.has_snapshot)


async def _start(parts: Parts, question: Question) -> tuple[Head, int | None]:
    """Return the head in memory, and the revision to go on from, None to begin now. Raises HistoryGone."""
    head, after = parts.watchers.recent.head, question.after
    if head is None:
        raise SourceUnavailable("this worker has not loaded the routes yet")
    if after is None or parts.watchers.recent.covers(after):
        return head, after and after.revision
    try:
        # Older than memory, newer than this worker knows, or of another history: the database tells.
        page = await read_in_turn(parts, question.wanted, after, limit=1)
    except HistoryGone:
        if question.has_snapshot:
            return head, None
        raise
    head = parts.watchers.recent.head
    if head is None or page.head.epoch != head.epoch:
        parts.follower.wake()
        raise SourceUnavailable("this worker has not loaded the new history yet")
    return head, after.revision


class _Stream:
    """One reader's stream: what *watcher* is told, sent by *send* over *connection*."""

    __slots__ = (
        "_connection",
        "_ends_at",
        "_epoch8",
        "_give_up",
        "_parts",
        "_said",
        "_send",
        "_sent",
        "_settings",
        "_watcher",
    )

    def __init__(
        self, parts: Parts, watcher: Watcher, epoch8: str, send: Send, connection: Connection
    ) -> None:
        self._parts = parts
        self._connection = connection
        self._watcher = watcher
        self._epoch8 = epoch8
        self._send = send
        self._settings = parts.settings.watch
        self._sent = parts.metrics.tm_watch_changes_sent_total.inc
        # The last position that was said, as an id.
        self._said = watcher.position
        life_s = self._settings.life_seconds * random.uniform(0.8, 1.0)  # noqa: S311 not a secret
        self._ends_at = _now() + life_s

    async def run(self, *, has_snapshot: bool) -> None:
        """Serve until there is an ending, and say which."""
        self._connection.begin_endless(partial(self._watcher.end, Ending.DISCONNECTED))
        try:
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if has_snapshot:
                await self._say_snapshot()
            else:
                await self._say(_RETRY + sse.progress(self._position))
            self._watcher.sink = self._say_now
            while page := await self._watcher.next(self._patience_s()) or await self._older():
                await self._tell(page)
            await self._say_end()
        finally:
            self._parts.metrics.tm_watch_streams_ended_total.labels(self._ending).inc()

    @property
    def _position(self) -> Position:
        return Position(self._epoch8, self._said)

    @property
    def _ending(self) -> Ending:
        return self._watcher.ending or Ending.DISCONNECTED

    def _patience_s(self) -> float:
        """Return the time until the next heart-beat; it ends the watching when the stream has lasted long enough."""
        left_s = self._ends_at - _now()
        if left_s <= 0:
            self._watcher.end(Ending.LIFE_OVER)
        return min(left_s, self._settings.heartbeat_seconds)

    async def _older(self) -> Page | None:
        """Return a page that is no longer in memory; None if there is an ending."""
        if self._watcher.ending is not None:
            return None
        wanted, after = self._watcher.wanted, Position(self._epoch8, self._watcher.position)
        try:
            found = await read_in_turn(self._parts, wanted, after, PAGE_CHANGES)
        except HistoryGone as gone:
            is_other = not gone.head.startswith(self._epoch8)
            self._watcher.end(Ending.HISTORY_CHANGED if is_other else Ending.HISTORY_GONE)
            return None
        except SourceUnavailable:
            self._watcher.end(Ending.UNAVAILABLE)
            return None
        upto = found.head.revision if found.last is None else found.last
        self._watcher.skip_to(upto)
        return Page([Told(change) for change in found.changes], upto)

    async def _tell(self, page: Page) -> None:
        """Say the changes; if there are none, how far the stream is, or just that it lives."""
        if page.told:
            for piece in sse.pieces(page, self._epoch8):
                await self._say(piece)
            self._note(page)
        elif page.upto > self._said:
            self._said = page.upto
            await self._say(sse.progress(self._position))
        elif self._watcher.ending is None:
            await self._say(sse.HEARTBEAT)

    async def _say_snapshot(self) -> None:
        """Say the routes that match, then what has changed meanwhile, then that this is all."""
        await self._say(_RETRY + sse.event("snapshot", {"position": str(self._position)}))
        count, start = 0, self._watcher.position
        upto = start
        async for read_at, portion in portions(self._parts, self._watcher, self._epoch8):
            # What has changed since the watcher began is left out: its change is told.
            routes = [sse.route(key, entry) for key, entry in portion if entry.revision <= start]
            for piece in sse.joined(routes):
                await self._say(piece)
            if self._watcher.ending is not None:
                return
            count += len(routes)
            upto = read_at
        await self._tell_up_to(upto)
        self._said = self._watcher.position
        document = {"position": str(self._position), "routes": count}
        await self._say(sse.event("snapshot-end", document, self._position))

    async def _tell_up_to(self, revision: int) -> None:
        """Tell the changes up to *revision*, and wait for this worker to know them. Without ids: a reader that is
        cut off before the end would go on from there, and never hear that it has all routes."""
        while self._watcher.position < revision:
            page = await self._watcher.next(self._patience_s()) or await self._older()
            if page is None:
                return
            for piece in sse.joined([sse.change(told.change) for told in page.told] or [sse.HEARTBEAT]):
                await self._say(piece)
            self._sent(len(page.told))

    def _say_now(self, page: Page) -> bool:
        """Say the changes at once, if they fit into the connection's buffer; else nothing."""
        pieces = sse.pieces(page, self._epoch8)
        if len(pieces) > 1:
            return False
        sending = self._send({"type": "http.response.body", "body": pieces[0], "more_body": True})
        try:
            sending.send(None)
        except StopIteration:
            self._note(page)
            return True
        sending.close()  # it waits for the reader, and nothing was sent: the stream's own task does it
        return False

    def _note(self, page: Page) -> None:
        self._said = sse.last_id(page)
        self._sent(len(page.told))

    async def _say(self, text: bytes) -> None:
        """Send *text*; the watching ends if the reader takes nothing for too long."""
        if self._watcher.ending is not None:
            return
        try:
            async with asyncio.timeout(self._settings.slow_seconds):
                await self._send({"type": "http.response.body", "body": text, "more_body": True})
        except TimeoutError:
            self._watcher.end(Ending.TOO_SLOW)

    async def _say_end(self) -> None:
        """Say why the stream ends, as far as its reader takes it, and when to come back."""
        if self._ending is Ending.DISCONNECTED:
            return
        spread_ms = _RETRY_SPREAD_MS if self._ending is Ending.DRAINING else 0
        retry_ms = _RETRY_MS + random.randint(0, spread_ms)  # noqa: S311 not a secret
        text = b"retry: %d\n" % retry_ms + sse.event(
            "end", {"reason": self._ending, "detail": _DETAILS[self._ending]}
        )
        self._connection.give_up(self._settings.slow_seconds)
        await self._send({"type": "http.response.body", "body": text, "more_body": False})


def _now() -> float:
    return asyncio.get_running_loop().time()
