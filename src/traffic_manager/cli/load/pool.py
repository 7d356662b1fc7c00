"""The connections that requests share, and the requests that wait for one."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from traffic_manager.cli.load.connection import NO_ANSWER, Connection, Job
from traffic_manager.cli.load.ledger import NEVER_SENT, Ledger
from traffic_manager.cli.load.network import Network

_LOOK_EVERY_S = 0.05
_AGAIN_S = 0.1


class Pool:
    """Sends each request over a connection that is free, the first that was due first. One that has no answer
    *timeout_s* after it was due is given up."""

    def __init__(self, network: Network, size: int, timeout_s: float, ledger: Ledger) -> None:
        self._network = network
        self._size = size
        self._timeout_s = timeout_s
        self._ledger = ledger
        self._open: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._waiting: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def open(self) -> None:
        """Open all connections. Raises OSError."""
        await self._network.together(self._open_one() for _ in range(self._size))
        self._keep(asyncio.create_task(self._give_up_when_late()))

    def begin(self, job: Job) -> bool:
        """Send a request; return whether it has to wait for a connection."""
        if not self._idle:
            self._waiting.append(job)
            return True
        self._idle.popleft().send(job)
        return False

    @property
    def is_done(self) -> bool:
        """Whether every request has ended."""
        return not self._waiting and all(connection.job is None for connection in self._open)

    def close(self) -> None:
        """End all connections; what is under way is not told any more."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.job = None
            connection.drop(NO_ANSWER)

    def answered(self, job: Job, outcome: str) -> None:
        """Take in how a request ended."""
        self._ledger.ended(job.kind, outcome, job.due_s, time.monotonic())

    def freed(self, connection: Connection) -> None:
        """Send what waits."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def closed(self, connection: Connection) -> None:
        """Open another in its place."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._is_closing:
            self._keep(asyncio.create_task(self._open_again()))

    async def _open_again(self) -> None:
        while True:
            try:
                return await self._open_one()
            except OSError:
                await asyncio.sleep(_AGAIN_S)

    async def _open_one(self) -> None:
        connection = Connection(self)
        await self._network.connect(connection)
        self._open.add(connection)
        self.freed(connection)

    async def _give_up_when_late(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            due_before_s = time.monotonic() - self._timeout_s
            while self._waiting and self._waiting[0].due_s < due_before_s:
                self.answered(self._waiting.popleft(), NEVER_SENT)
            for connection in list(self._open):
                if connection.job is not None and connection.job.due_s < due_before_s:
                    connection.drop(NO_ANSWER)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
