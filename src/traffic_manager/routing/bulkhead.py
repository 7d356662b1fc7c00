"""Runs blocking work for the event loop on a few threads of its own: one kind of work cannot take all.

Work that cannot begin in time is refused: bounded by waiting time, not by the length of a queue.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from traffic_manager.errors import Busy

Result = TypeVar("Result")


class Bulkhead:
    """*threads* threads called *name*, for which anybody waits *patience_s* at most. Belongs to one event loop."""

    def __init__(self, name: str, threads: int, patience_s: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)
        self._turn = asyncio.Lock()
        self.patience_s = patience_s

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what *work* returns, run on a thread with the caller's context variables. Raises Busy if no
        thread came free in time."""
        # One at a time waits for a thread: so whoever comes by `thread_ahead` waits for one of these at most.
        await self._in_time(self._thread_in_turn())
        return await asyncio.shield(self.begin(work))

    async def thread_ahead(self) -> None:
        """Take a thread, not behind those who wait in `run`; `begin` has to follow. Raises Busy as there."""
        await self._in_time(self._free.acquire())

    def begin(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """Run *work* on the thread that was taken; return what becomes of it."""
        context = contextvars.copy_context()
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, context.run, work)
        except BaseException:  # no thread could be started
            self._free.release()
            raise
        # The thread stays busy even if the caller goes away, so it is the thread that frees its place.
        future.add_done_callback(lambda _: self._free.release())
        return future

    async def _thread_in_turn(self) -> None:
        async with self._turn:
            await self._free.acquire()

    async def _in_time(self, a_thread: Coroutine[None, None, object]) -> None:
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the free thread.
            async with asyncio.timeout(self.patience_s):
                await a_thread
        except TimeoutError as error:
            raise Busy("too many requests wait for the database") from error

    def close(self) -> None:
        """Let running work end; take no more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
