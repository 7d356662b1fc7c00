"""Those who only read, for as long as a soak lasts: streams that stay open, and look-ups that go to the database."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from functools import partial

from tests.faults.acts import seconds_until
from tests.faults.stand import KNOWN, Stand
from tests.node import Node, path_of
from tests.promises.caller import Answer, Caller
from tests.promises.crew import a_crew
from traffic_manager.client import Client, Filter, follow
from traffic_manager.client.errors import ClientError

# Of each node's look-ups.
_PAUSE_S = 0.1
_NOW = "select left(epoch, 8) || '.' || (select max(revision) from changes) from meta"
# A batch of a thousand changes comes to all streams within so long, on a busy machine too.
_TOLD_S = 60.0


class Readers:
    """Streams and look-ups on all nodes of *stand*, within their block."""

    def __init__(self, stand: Stand, streams_per_node: int) -> None:
        self._stand = stand
        now = stand.ask_database(_NOW)
        self._streams = [_Stream(node, now) for node in stand.nodes for _ in range(streams_per_node)]
        self._stack = ExitStack()

    def __enter__(self) -> Readers:
        for stream in self._streams:
            stream.start()
        crew = self._stack.enter_context(a_crew())
        for node in self._stand.nodes:
            crew.add(_LookUps(node).step, _PAUSE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def see_told(self, revision: int) -> None:
        """Wait until every stream has told the change of *revision*."""
        for stream in self._streams:
            assert seconds_until(partial(stream.has_told, revision), _TOLD_S) < _TOLD_S

    def findings(self) -> list[str]:
        """Return what was wrong with what the streams told, and how many changes the slowest was told."""
        return [finding for stream in self._streams for finding in stream.findings()]


class _Stream(threading.Thread):
    """Follows all changes *after* a position with the client, and sees whether any is missing or comes twice."""

    def __init__(self, node: Node, after: str) -> None:
        super().__init__(daemon=True)
        self._node = node
        self._after = after
        self._told: list[int] = []
        self._end: Exception | None = None

    def run(self) -> None:
        try:
            with Client(self._node.url) as client:
                for event in follow(client, Filter(), self._after):
                    if event.kind == "change":
                        self._told.append(event.change.revision)
        except ClientError as error:
            self._end = error

    def has_told(self, revision: int) -> bool:
        """Return whether the change of *revision* has come."""
        return bool(self._told) and self._told[-1] >= revision

    def findings(self) -> list[str]:
        """Return what is wrong."""
        told = self._told.copy()
        found = [] if told == list(range(told[0], told[0] + len(told))) else ["a stream left changes out"]
        if self._end is not None:
            found.append(f"a stream ended: {self._end}")
        return found


class _LookUps:
    """Reads one route, its history, a page of a list, or some routes at once."""

    def __init__(self, node: Node) -> None:
        self._caller = Caller(node)
        self._random = random.Random(node.port)

    def step(self) -> Answer | None:
        """Read something. Raises NoAnswer."""
        path = path_of(self._random.choice(KNOWN)._asdict())
        asked = self._random.choice([path, f"{path}/history", "/api/v1/routes?tenant=team-a&page_size=50"])
        return self._caller.ask("GET", asked)
