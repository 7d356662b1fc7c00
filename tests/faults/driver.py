"""Drives a load from a process of its own: an open loop.

Requests are due at constant intervals, whether or not the ones before were answered, and their time counts from
when they were due: a server that stands still for a second is late for all the requests of that second.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from tests.faults.agents import Agents
from tests.faults.load import Load
from tests.promises.ledger import Ledger

# Above what the servers have.
_PRIORITY = -5


class LoadProcess:
    """The process that does *load*, from construction until `finish`."""

    def __init__(self, load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(load, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # it has begun

    def finish(self) -> Ledger:
        """Stop it when all that is under way was answered or given up; return what happened."""
        self._pipe.send("stop")
        ledger = self._pipe.recv()
        self._process.join()
        assert isinstance(ledger, Ledger)
        return ledger

    def kill(self) -> None:
        """End it, and with it all that it knows. Nothing happens after `finish`."""
        self._process.kill()
        self._process.join()


def _run(load: Load, pipe: Connection) -> None:
    # What the client itself delays must not count as the servers' delay.
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    gc.disable()
    pipe.send(uvloop.run(_drive(load, pipe)))


async def _drive(load: Load, pipe: Connection) -> Ledger:
    agents = Agents(load)
    await agents.warm_up()
    pipe.send("begun")
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for rate, act in agents.duties():
            group.create_task(_at_rate(group, rate, act, stopping))
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        stopping.set()
    agents.close()
    return agents.ledger


async def _at_rate(
    group: asyncio.TaskGroup,
    rate: float,
    act: Callable[[float], Coroutine[Any, Any, None]],  # Any: what nobody sends to it or takes from it
    stopping: asyncio.Event,
) -> None:
    """Begin *act* *rate* times a second, and tell it when it was due."""
    due_s = time.monotonic()
    while not stopping.is_set():
        group.create_task(act(due_s))
        due_s += 1 / rate
        await asyncio.sleep(due_s - time.monotonic())
