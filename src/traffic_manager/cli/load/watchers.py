"""The watchers of a load: streams of its changes."""

from __future__ import annotations

import asyncio
import time

from traffic_manager.cli.load.connection import LOST, Watcher
from traffic_manager.cli.load.ledger import ANSWERED, SEEN, WATCH, Ledger
from traffic_manager.cli.load.network import Network
from traffic_manager.cli.load.plan import Requests

_AGAIN_S = 1.0


class Watchers:
    """So many streams; one that ends is gone on with where it was."""

    def __init__(self, network: Network, requests: Requests, url: str, count: int, ledger: Ledger) -> None:
        self._network = network
        self._requests = requests
        self._url = url
        self._count = count
        self._ledger = ledger
        self._tasks: list[asyncio.Task[None]] = []
        self._open: set[Watcher] = set()
        self._answers = 0
        self._all_answered = asyncio.Event()

    async def open(self) -> None:
        """Begin to watch; return when each stream was answered, or refused."""
        if self._count:
            self._tasks = [asyncio.create_task(self._watch()) for _ in range(self._count)]
            await self._all_answered.wait()

    def close(self) -> None:
        """End all streams."""
        for task in self._tasks:
            task.cancel()
        for watcher in self._open:
            watcher.drop(LOST)

    async def _watch(self) -> None:
        after, is_first = None, True
        while True:
            after = await self._watch_once(after, is_first=is_first)
            is_first = False
            await asyncio.sleep(_AGAIN_S)

    async def _watch_once(self, after: bytes | None, *, is_first: bool) -> bytes | None:
        """Watch until the stream ends; return where to go on."""
        began_s, is_over = time.monotonic(), asyncio.Event()
        told: list[str] = []

        def answered(outcome: str) -> None:
            told.append(outcome)
            self._answered(outcome, began_s, is_first=is_first)

        request = self._requests.watch(after)
        watcher = Watcher(request, self._url, self._seen, answered, is_over.set)
        watcher.after = after
        self._open.add(watcher)
        try:
            await self._network.connect(watcher)
            await is_over.wait()
        except OSError:
            pass
        finally:
            self._open.discard(watcher)
        if not told:
            self._answered(LOST, began_s, is_first=is_first)
        return watcher.after

    def _answered(self, outcome: str, began_s: float, *, is_first: bool) -> None:
        """Take in whether a stream has begun. Those that are not there from the start see less, and are told."""
        if outcome != ANSWERED:
            took_us = round((time.monotonic() - began_s) * 1e6)
            self._ledger.outcomes[WATCH, outcome].add(took_us)
        if is_first:
            self._ledger.watching += outcome == ANSWERED
            self._answers += 1
            if self._answers == self._count:
                self._all_answered.set()

    def _seen(self, due_us: int) -> None:
        self._ledger.ended(SEEN, ANSWERED, due_us / 1e6, time.monotonic())
