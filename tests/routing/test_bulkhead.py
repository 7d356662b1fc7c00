"""Work on a few threads of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest

from tests.routing.builders import on_a_loop
from traffic_manager.errors import Busy
from traffic_manager.routing.bulkhead import Bulkhead

Result = TypeVar("Result")
REQUEST = contextvars.ContextVar("request", default="none")


@on_a_loop
async def test_work_runs_elsewhere_and_its_answer_comes_back() -> None:
    bulkhead = Bulkhead("read", 1, 1.0)
    assert (await bulkhead.run(lambda: threading.current_thread().name)).startswith("read")
    bulkhead.close()


@on_a_loop
async def test_work_has_the_context_of_its_caller() -> None:
    bulkhead = Bulkhead("read", 1, 1.0)
    REQUEST.set("c-1")
    assert await bulkhead.run(REQUEST.get) == "c-1"
    bulkhead.close()


@on_a_loop
async def test_error_of_the_work_is_the_callers_and_frees_the_thread() -> None:
    bulkhead = Bulkhead("read", 1, 1.0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await bulkhead.run(lambda: 1 // 0)
    bulkhead.close()


@on_a_loop
async def test_work_that_cannot_begin_in_time_is_refused_and_later_work_is_not() -> None:
    bulkhead, done = Bulkhead("read", 2, 0.02), threading.Event()
    running = [asyncio.ensure_future(bulkhead.run(done.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await bulkhead.run(lambda: None)
    done.set()
    await asyncio.gather(*running)
    assert await bulkhead.run(lambda: 7) == 7
    bulkhead.close()


@on_a_loop
async def test_thread_of_a_caller_who_went_away_stays_taken_until_its_work_ends() -> None:
    bulkhead, begun, done = Bulkhead("read", 1, 0.3), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        done.wait()

    gone = asyncio.ensure_future(bulkhead.run(work))
    await begun.wait()
    gone.cancel()
    await asyncio.wait({gone})
    assert gone.cancelled()
    with pytest.raises(Busy):
        await bulkhead.run(lambda: None)
    done.set()
    assert await bulkhead.run(lambda: 7) == 7
    bulkhead.close()


@pytest.mark.parametrize("turns", range(5))
@on_a_loop
async def test_caller_who_goes_away_at_any_moment_is_let_go(turns: int) -> None:
    bulkhead, done = Bulkhead("read", 1, 5.0), threading.Event()
    caller = asyncio.ensure_future(bulkhead.run(done.wait))
    for _ in range(turns):
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller}, timeout=1.0)
    is_let_go = caller.cancelled()
    done.set()
    assert is_let_go
    assert await bulkhead.run(lambda: 7) == 7
    bulkhead.close()


@on_a_loop
async def test_more_callers_than_threads_take_turns() -> None:
    bulkhead = Bulkhead("read", 2, 5.0)
    assert await asyncio.gather(*(bulkhead.run(partial(abs, n)) for n in range(50))) == list(range(50))
    bulkhead.close()


async def ahead(bulkhead: Bulkhead, work: Callable[[], Result]) -> Result:
    """Return what *work* returns, which does not wait behind others."""
    await bulkhead.thread_ahead()
    return await bulkhead.begin(work)


@on_a_loop
async def test_thread_that_cannot_be_started_leaves_its_place_free(monkeypatch: pytest.MonkeyPatch) -> None:
    bulkhead = Bulkhead("read", 1, 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError):
            await bulkhead.run(lambda: None)
    assert await bulkhead.run(lambda: 7) == 7
    bulkhead.close()


def _no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@on_a_loop
async def test_who_goes_ahead_waits_for_one_of_the_others_at_most() -> None:
    bulkhead, done, began = Bulkhead("read", 1, 5.0), threading.Event(), list[str]()
    running: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(bulkhead.run(done.wait))
    ]  # Any: of no interest
    running += [asyncio.ensure_future(bulkhead.run(partial(began.append, f"other {n}"))) for n in range(3)]
    await asyncio.sleep(0)
    going_ahead = asyncio.ensure_future(ahead(bulkhead, partial(began.append, "ahead")))
    await asyncio.sleep(0)
    done.set()
    await asyncio.gather(*running, going_ahead)
    assert began == ["other 0", "ahead", "other 1", "other 2"]
    bulkhead.close()


@on_a_loop
async def test_who_goes_ahead_is_refused_in_time_too() -> None:
    bulkhead, done = Bulkhead("read", 1, 0.02), threading.Event()
    running = asyncio.ensure_future(bulkhead.run(done.wait))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await bulkhead.thread_ahead()
    done.set()
    await running
    assert await ahead(bulkhead, partial(int, 7)) == 7
    bulkhead.close()
