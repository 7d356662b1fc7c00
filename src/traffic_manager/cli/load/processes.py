"""The processes of a load: started together, told when to begin, and asked what came of it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe

from traffic_manager.cli.load.generator import Acknowledged, Begin, Opened, Stop, run
from traffic_manager.cli.load.ledger import Ledger
from traffic_manager.cli.load.plan import Load

# What has to be told to all of them before they begin.
_SOON_S = 0.1
_END_S = 5.0


class CannotBegin(Exception):
    """There is nothing to measure: the connections could not be opened, or a process is gone."""


def measured(load: Load, processes: int, say: Callable[[str], None]) -> tuple[Ledger, bool]:
    """Do *load* with so many processes; return what came of it, and whether it was broken off by Ctrl-C. Raises
    CannotBegin."""
    with _started([load.part(number, processes) for number in range(processes)]) as pipes, _deaths_told():
        is_whole = False
        with suppress(KeyboardInterrupt):
            _carry_out(load, pipes, say)
            is_whole = True
        return Ledger.of([_last_word(pipe, stop=not is_whole) for pipe in pipes]), not is_whole


@contextmanager
def _deaths_told() -> Iterator[None]:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise CannotBegin("a process of the generator was killed") from None


def _carry_out(load: Load, pipes: Sequence[Pipe], say: Callable[[str], None]) -> None:
    for pipe in pipes:
        opened = pipe.recv()
        if isinstance(opened, Opened) and opened.problem:
            raise CannotBegin(opened.problem)
    say(f"warming up for {load.warm_up_s:g} s, then measuring for {load.duration_s:g} s ...")
    _tell(pipes, Begin(round(time.monotonic() + _SOON_S, 6)))
    acknowledged = [pipe.recv() for pipe in pipes]
    _tell(pipes, Acknowledged(sum(told.changes for told in acknowledged)))


def _tell(pipes: Sequence[Pipe], message: Begin | Acknowledged) -> None:
    for pipe in pipes:
        pipe.send(message)


def _last_word(pipe: Pipe, *, stop: bool) -> Ledger:
    """Return what a process says in the end, with what it said before passed over."""
    if stop:
        with suppress(BrokenPipeError):
            pipe.send(Stop())
    while not isinstance(said := pipe.recv(), Ledger):
        pass
    return said


@contextmanager
def _started(loads: Sequence[Load]) -> Iterator[list[Pipe]]:
    """Run a process for each of *loads* while the block lasts, and give the pipes to them."""
    context = multiprocessing.get_context("spawn")
    pipes, running = [], []
    try:
        for load in loads:
            ours, theirs = context.Pipe()
            process = context.Process(target=run, args=(load, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            running.append(process)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()  # tells it to end
        for process in running:
            process.join(_END_S)
            process.kill()
