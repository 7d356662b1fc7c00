"""Runs blocking work for the event loop on a few threads of its own: one kind of work cannot take all.

Work that cannot begin in time is refused: bounded by waiting time, not by the length of a queue.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from traffic_manager.errors import Busy

Result = TypeVar("Result")


class Bulkhead:
    """*threads* threads called *name*. Belongs to one event loop."""

    def __init__(self, name: str, threads: int, patience_s: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)
        self._patience_s = patience_s

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what *work* returns, run on a thread with the caller's context variables. Raises Busy if no
        thread came free in time."""
        try:
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes with the free thread.
            async with asyncio.timeout(self._patience_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise Busy("too many requests wait for the database") from error
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(self._executor, context.run, work)
        # The thread stays busy even if the caller goes away, so it is the thread that frees its place.
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(future)

    def close(self) -> None:
        """Let running work end; take no more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
