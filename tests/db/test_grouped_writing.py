"""Many callers at once, through the writers of two workers: one order, each answered by its own commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.db.engines import SqlEngine
from tests.routing.builders import a_key, create, deactivate, delete, on_a_loop, put
from traffic_manager.errors import RouteConflict, RouteNotFound
from traffic_manager.routing.chain import CHAIN_START, next_link
from traffic_manager.routing.operations import Author, Operation
from traffic_manager.routing.ports import NameFilter
from traffic_manager.routing.registry import Registry, Written

CALLERS = 40
ANY = NameFilter()


@asynccontextmanager
async def two_writers(engine: SqlEngine) -> AsyncIterator[list[Registry]]:
    """Run the writers of two workers over one database."""
    writers = [Registry(engine.store, lambda _: None) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            await asyncio.to_thread(writer.stop)


async def _ask(writer: Registry, request: str, *operations: Operation) -> tuple[str, Written | Exception]:
    author = Author("alice", request)
    try:
        if len(operations) == 1:
            return request, await writer.write(operations[0], author)
        return request, await writer.write_batch(operations, author)
    except (RouteConflict, RouteNotFound) as refusal:
        return request, refusal


async def _caller(writer: Registry, number: int) -> list[tuple[str, Written | Exception]]:
    """Do one of everything, some of it to routes that others want, too."""
    own, shared = a_key(f"own-{number}"), a_key(f"shared-{number % 3}")
    wishes: list[tuple[Operation, ...]] = [
        (create(own),),
        (put(shared, f"https://s{number}.example.com/"),),
        (create(shared, f"https://other{number}.example.com/"),),
        (deactivate(a_key("nobody")),),
        (deactivate(own), put(own, f"https://o{number}.example.com/"), create(a_key(f"more-{number}"))),
        (delete(own),),
    ]
    return [await _ask(writer, f"c{number}-{step}", *wish) for step, wish in enumerate(wishes)]


@on_a_loop
async def test_grouped_changes_have_one_order_without_gap_and_each_answer_is_of_its_own(
    sql_engine: SqlEngine,
) -> None:
    async with two_writers(sql_engine) as writers:
        asked = await asyncio.gather(*(_caller(writers[n % 2], n) for n in range(CALLERS)))
    log = sql_engine.store.changes(ANY, 0, 1000).changes
    made = {request: answer for answers in asked for request, answer in answers}
    assert [change.revision for change in log] == list(range(1, len(log) + 1))
    for request, answer in made.items():
        mine = [change for change in log if change.correlation_id == request]
        if isinstance(answer, Exception):
            assert mine == []
        else:
            assert [c.revision for c in mine] == [o.revision for o in answer.outcomes if o.action]
            assert {c.batch_end for c in mine} <= {mine[-1].revision if mine else 0}
    refusals = {type(answer) for answer in made.values() if isinstance(answer, Exception)}
    assert refusals == {RouteConflict, RouteNotFound}


@on_a_loop
async def test_chain_and_routes_agree_with_the_log_of_grouped_changes(sql_engine: SqlEngine) -> None:
    async with two_writers(sql_engine) as writers:
        await asyncio.gather(*(_caller(writers[n % 2], n) for n in range(CALLERS)))
    log = sql_engine.store.changes(ANY, 0, 1000).changes
    digest, expected = CHAIN_START, []
    for change in log:
        digest = next_link(digest, change)
        expected.append(digest)
    assert list(sql_engine.chains()) == expected
    last = {change.key: (change.url, change.is_active, change.revision) for change in log}
    routes = sql_engine.store.page(ANY, None, None, 1000).routes
    assert {route.key: (route.url, route.is_active, route.revision) for route in routes} == {
        key: state for key, state in last.items() if state[0] is not None
    }
