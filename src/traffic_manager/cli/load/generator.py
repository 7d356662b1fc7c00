"""A process that does its part of a load, and tells whoever started it when it can begin and what came of it."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection as Pipe

import uvloop

from traffic_manager.cli.load.connection import Job
from traffic_manager.cli.load.duties import Clockwork, Duty
from traffic_manager.cli.load.ledger import CHANGE, RESOLVE, SEEN, Ledger
from traffic_manager.cli.load.network import Network
from traffic_manager.cli.load.plan import Load, Requests
from traffic_manager.cli.load.pool import Pool
from traffic_manager.cli.load.watchers import Watchers

_LOOK_EVERY_S = 0.02
# Until what is given up has ended.
_SPARE_LOOKS = 10


@dataclass(frozen=True)
class Opened:
    """Said when all connections are open, or why they cannot be."""

    problem: str | None = None


@dataclass(frozen=True)
class Begin:
    """Told to all processes: from when on."""

    at_s: float


@dataclass(frozen=True)
class Acknowledged:
    """Said of the changes that were measured, when all requests have ended; told back with the sum of all."""

    changes: int


@dataclass(frozen=True)
class Stop:
    """Told to a process that is to end at once. In the end each says its Ledger."""


def run(load: Load, pipe: Pipe) -> None:
    """Do *load*, and speak over *pipe* in the order of the messages above."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever started it ends it
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()  # what a collection delays is not the server's delay
    with suppress(BrokenPipeError):
        uvloop.run(_Generator(load, pipe).run())


class _Generator:
    """The parts of a load, joined."""

    def __init__(self, load: Load, pipe: Pipe) -> None:
        self._load = load
        self._pipe = pipe
        self._told: asyncio.Queue[Begin | Acknowledged] = asyncio.Queue()
        self._requests = Requests(load)
        self._ledger = Ledger(load.duration_s)
        network = Network(load.server, load.timeout_s)
        self._pool = Pool(network, load.connections, load.timeout_s, self._ledger)
        self._watchers = Watchers(network, self._requests, load.url, load.watchers, self._ledger)
        self._route = random.Random(load.number)  # noqa: S311 which routes are asked for is no secret
        self._serials = count()

    async def run(self) -> None:
        """Do all of it."""
        work = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._take, work)
        await asyncio.wait([work])
        loop.remove_reader(self._pipe.fileno())
        os.set_blocking(
            self._pipe.fileno(), True
        )  # the loop had it otherwise; a Ledger is longer than a pipe
        self._watchers.close()
        self._pool.close()
        if not work.cancelled():
            work.result()  # raises what was not foreseen
        self._pipe.send(self._ledger)

    def _take(self, work: asyncio.Task[None]) -> None:
        """Take what is told; whoever has nothing more to tell is gone."""
        try:
            told = self._pipe.recv()
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            told = Stop()
        if isinstance(told, Stop):
            self._ledger.end(time.monotonic())
            work.cancel()
        else:
            self._told.put_nowait(told)

    async def _work(self) -> None:
        self._pipe.send(await self._open())
        begin = await self._told.get()
        if isinstance(begin, Begin):
            await self._measure(begin.at_s)
        self._pipe.send(Acknowledged(self._ledger.count(CHANGE)))
        everywhere = await self._told.get()
        if isinstance(everywhere, Acknowledged):
            expected = everywhere.changes * self._ledger.watching
            await self._until(lambda: self._ledger.count(SEEN) >= expected)

    async def _open(self) -> Opened:
        try:
            async with asyncio.timeout(self._load.timeout_s):
                await self._pool.open()
                await self._watchers.open()
        except TimeoutError:
            return Opened("connecting timed out")
        except OSError as error:
            return Opened(error.strerror or str(error))
        return Opened()

    async def _measure(self, begin_s: float) -> None:
        self._ledger.begin(begin_s + self._load.warm_up_s)
        began_s, used_s = time.monotonic(), time.process_time()
        await Clockwork(self._duties()).run(begin_s, self._ledger.end_s)
        self._ledger.busy.append((time.process_time() - used_s) / (time.monotonic() - began_s))
        await self._until(lambda: self._pool.is_done)

    def _duties(self) -> list[Duty]:
        rates = ((self._load.resolves, self._resolve), (self._load.changes, self._change))
        return [Duty(rate, self._load.first_due, begin) for rate, begin in rates if rate]

    def _resolve(self, due_s: float, now_s: float) -> None:
        text = self._requests.resolve(self._a_route())
        self._begin(Job(RESOLVE, due_s, text), now_s)

    def _change(self, due_s: float, now_s: float) -> None:
        due_us = round(due_s * 1e6)
        text = self._requests.change(self._a_route(), next(self._serials), due_us)
        # As watchers will read it, so that both agree on which changes are measured.
        self._begin(Job(CHANGE, due_us / 1e6, text), now_s)

    def _begin(self, job: Job, now_s: float) -> None:
        self._ledger.begun(job.due_s, now_s, waits=self._pool.begin(job))

    def _a_route(self) -> int:
        return self._route.randrange(self._load.routes)

    async def _until(self, is_done: Callable[[], bool]) -> None:
        """Wait until it is done, or nobody waits for it any more."""
        for _ in range(math.ceil(self._load.timeout_s / _LOOK_EVERY_S) + _SPARE_LOOKS):
            if is_done():
                return
            await asyncio.sleep(_LOOK_EVERY_S)
