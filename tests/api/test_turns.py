"""Whose turn it is: of a few in a round, the most important first. Nobody waits too long; who would is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.monitoring.exposition import values
from traffic_manager.api.turns import AT_ONCE, PATIENCE_ROUNDS, PATIENCE_S, Turns
from traffic_manager.monitoring.label_values import Load
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload

MISSES, WRITES, LISTS = Load.MISSES, Load.WRITES, Load.LISTS


class Worker:
    """A worker whose requests only say what became of them, and whose rounds take as long as a test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.metrics = Metrics()
        self.overload = Overload(self.metrics, lambda: self.now)
        self.turns = Turns(self.metrics, self.overload, lambda: self.now)
        self.begun: list[Load] = []
        self.refused: list[Load] = []

    def come(self, load: Load, number: int = 1) -> None:
        """Let requests of a kind come, as a connection does with one that is not refused at once."""
        for _ in range(number):
            if self.turns.may_refuse and self.turns.refuses(load):
                self.refused.append(load)
            else:
                self.turns.take(load, lambda: self.begun.append(load), lambda: self.refused.append(load))

    async def a_round(self, took_s: float = 0.0) -> None:
        """Let the event loop go round once."""
        self.now += took_s
        await asyncio.sleep(0)

    async def rounds(self, number: int, took_s: float) -> None:
        """Let it go round so often, and be as busy as it may with misses all the time."""
        for _ in range(number):
            self.come(MISSES, AT_ONCE)
            await self.a_round(took_s / number)


def on_a_loop(test: Callable[[Worker], Awaitable[None]]) -> Callable[[], None]:
    """Make *test* one that pytest runs, on an event loop of its own."""

    def run() -> None:
        async def with_a_worker() -> None:
            await test(Worker())

        asyncio.run(with_a_worker())

    run.__name__ = test.__name__
    return run


@on_a_loop
async def test_in_good_times_everybody_begins_at_once(worker: Worker) -> None:
    for _ in range(10):
        worker.come(LISTS, AT_ONCE)
        await worker.a_round()
    assert worker.begun == [LISTS] * 10 * AT_ONCE


@on_a_loop
async def test_only_a_few_begin_in_a_round(worker: Worker) -> None:
    worker.come(MISSES, 3 * AT_ONCE)
    seen = []
    for _ in range(4):
        seen.append(len(worker.begun))
        await worker.a_round()
    assert seen == [AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE, 3 * AT_ONCE]


@on_a_loop
async def test_of_those_who_wait_the_most_important_begin_first(worker: Worker) -> None:
    worker.come(LISTS, AT_ONCE)
    for load in (LISTS, WRITES, MISSES):
        worker.come(load, AT_ONCE)
    for _ in range(3):
        await worker.a_round()
    assert worker.begun == [load for load in (LISTS, MISSES, WRITES, LISTS) for _ in range(AT_ONCE)]


@on_a_loop
async def test_who_has_waited_too_long_is_refused_and_counted_and_never_begins(worker: Worker) -> None:
    worker.come(MISSES, AT_ONCE)
    worker.come(WRITES, 2)
    await worker.rounds(9, 0.11)  # as documented: more than eight rounds and 100 ms
    assert (worker.begun.count(WRITES), worker.refused) == (0, [WRITES] * 2)
    assert values(worker.metrics.render())['tm_shed_total{class="writes"}'] == 2.0


@on_a_loop
async def test_a_pause_makes_nobody_late_however_long(worker: Worker) -> None:
    worker.come(WRITES, PATIENCE_ROUNDS * AT_ONCE)
    for _ in range(PATIENCE_ROUNDS):
        await worker.a_round(5.0)
    assert (len(worker.begun), worker.refused) == (PATIENCE_ROUNDS * AT_ONCE, [])


@on_a_loop
async def test_who_would_wait_too_long_is_told_at_once_and_more_important_ones_are_not(
    worker: Worker,
) -> None:
    worker.come(MISSES, AT_ONCE)
    worker.come(LISTS)
    await worker.rounds(PATIENCE_ROUNDS // 2 + 1, 0.6 * PATIENCE_S)
    worker.come(LISTS)
    worker.come(MISSES)
    assert worker.refused == [LISTS]
    await worker.a_round()
    assert MISSES in worker.begun


@on_a_loop
async def test_a_kind_whose_turn_never_comes_is_refused_at_once_but_for_one_that_tries(
    worker: Worker,
) -> None:
    worker.come(MISSES, AT_ONCE)
    worker.come(LISTS, 10)
    await worker.rounds(PATIENCE_ROUNDS + 1, 1.1 * PATIENCE_S)
    assert worker.refused == [LISTS] * 10
    worker.come(LISTS, 10)
    assert worker.refused == [LISTS] * 19


@on_a_loop
async def test_who_comes_because_another_was_refused_has_a_turn(worker: Worker) -> None:
    worker.come(MISSES, AT_ONCE)
    for _ in range(2):
        worker.turns.take(WRITES, lambda: None, lambda: worker.come(MISSES))
    await worker.rounds(PATIENCE_ROUNDS, 0.5 * PATIENCE_S)
    worker.begun.clear()
    await worker.a_round(PATIENCE_S)  # both writes are late, and nobody else is there
    await worker.a_round()
    assert worker.begun == [MISSES] * 2


def _bug() -> None:
    raise ZeroDivisionError


@on_a_loop
async def test_one_that_fails_takes_nobodys_turn(worker: Worker) -> None:
    worker.come(MISSES, AT_ONCE)
    worker.turns.take(WRITES, lambda: None, _bug)
    worker.come(LISTS)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    await worker.rounds(PATIENCE_ROUNDS, 0.5 * PATIENCE_S)
    await worker.a_round(PATIENCE_S)
    await worker.a_round()
    assert (worker.turns.may_refuse, worker.refused) == (False, [LISTS])


@on_a_loop
async def test_what_was_too_much_once_is_forgotten_when_all_begin_at_once_again(worker: Worker) -> None:
    worker.come(MISSES, AT_ONCE)
    worker.come(LISTS)
    await worker.rounds(PATIENCE_ROUNDS + 1, 1.1 * PATIENCE_S)
    assert worker.refused == [LISTS]
    await worker.a_round()
    worker.come(LISTS)
    await worker.a_round()
    worker.come(LISTS, PATIENCE_ROUNDS * AT_ONCE)
    assert worker.refused == [LISTS]


@on_a_loop
async def test_when_the_flood_ends_all_are_taken_again(worker: Worker) -> None:
    worker.come(LISTS, 100 * AT_ONCE)
    for _ in range(2 * PATIENCE_ROUNDS):
        await worker.a_round(0.2 * PATIENCE_S)
    assert LISTS in worker.refused
    worker.begun.clear()
    worker.refused.clear()
    worker.come(LISTS, AT_ONCE)
    await worker.a_round()
    worker.come(LISTS, AT_ONCE)
    assert (len(worker.begun), worker.refused) == (2 * AT_ONCE, [])


@pytest.mark.parametrize("load", [MISSES, WRITES, LISTS])
def test_none_has_a_turn_while_even_what_memory_answers_waits(load: Load) -> None:
    worker = Worker()
    worker.overload.stands = True
    worker.come(load, 3)
    assert worker.refused == [load] * 3
