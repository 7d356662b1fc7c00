"""New connections are taken many in a round of the event loop, but not so many that others have to wait."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import uvicorn
import uvloop
from structlog.testing import capture_logs

from tests.routing.test_follower import until
from traffic_manager.api.acceptor import AT_ONCE, Acceptor
from traffic_manager.api.admission import Arrival
from traffic_manager.api.server import Server, bind

TIMEOUT_S = 10.0


class Seen(asyncio.Protocol):
    """A connection that says that it was made."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._taken.transports.append(transport)


class Taken:
    """What became of new connections: those that are made, and how many were taken in each round of the loop."""

    def __init__(self) -> None:
        self.transports: list[asyncio.BaseTransport] = []
        self.of_round: Counter[int] = Counter()
        self._round = 0

    def protocol(self) -> Seen:
        """Make the protocol of one."""
        self.of_round[self._round] += 1
        return Seen(self)

    async def until(self, count: int) -> None:
        """Go round until so many are made."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.transports) < count:
                await asyncio.sleep(0)
                self._round += 1

    def close(self) -> None:
        """End all."""
        for transport in self.transports:
            transport.close()


class Listener(socket.socket):
    """A listening socket that fails with these errors first."""

    errors: Sequence[int] = ()

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            error, *self.errors = self.errors
            raise OSError(error, "refused")
        return super().accept()


def on_uvloop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Make *test* one that pytest runs, on the servers' kind of loop."""

    def run() -> None:
        uvloop.run(test())  # type: ignore[arg-type] # an async function's result is a coroutine

    run.__name__ = test.__name__
    return run


@contextmanager
def clients_of(listener: socket.socket, count: int) -> Iterator[list[socket.socket]]:
    """Connect so many."""
    clients = [socket.create_connection(listener.getsockname(), TIMEOUT_S) for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


@on_uvloop
async def test_all_that_wait_are_taken_in_a_round() -> None:
    taken = Taken()
    with bind("127.0.0.1", 0) as listener, clients_of(listener, 20):
        acceptor = Acceptor(listener, taken.protocol)
        await taken.until(20)
        assert list(taken.of_round.values()) == [20]
        acceptor.close()
        taken.close()


@on_uvloop
async def test_so_many_that_others_would_wait_are_taken_in_several_rounds() -> None:
    taken = Taken()
    with bind("127.0.0.1", 0) as listener, clients_of(listener, 2 * AT_ONCE + 1):
        acceptor = Acceptor(listener, taken.protocol)
        await taken.until(2 * AT_ONCE + 1)
        assert list(taken.of_round.values()) == [AT_ONCE, AT_ONCE, 1]
        acceptor.close()
        taken.close()


@on_uvloop
async def test_answers_go_out_at_once() -> None:
    taken = Taken()
    with bind("127.0.0.1", 0) as listener, clients_of(listener, 1):
        acceptor = Acceptor(listener, taken.protocol)
        await taken.until(1)
        ours = taken.transports[0].get_extra_info("socket")
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        acceptor.close()
        taken.close()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM, errno.EPERM, errno.EINVAL])
def test_when_nobody_can_come_it_pauses_and_says_so(error: int) -> None:
    async def test() -> None:
        taken = Taken()
        with bind("127.0.0.1", 0) as bound, Listener(fileno=bound.detach()) as listener:
            listener.errors = [error, error]
            with clients_of(listener, 3), capture_logs() as lines:
                acceptor = Acceptor(listener, taken.protocol)
                await taken.until(3)
            assert [line["event"] for line in lines] == ["accepting_paused"] * 2
            acceptor.close()
            taken.close()

    uvloop.run(test())


@on_uvloop
async def test_one_that_has_gone_already_keeps_nobody_waiting() -> None:
    taken = Taken()
    with bind("127.0.0.1", 0) as bound, Listener(fileno=bound.detach()) as listener:
        listener.errors = [errno.ECONNABORTED] * 3
        with clients_of(listener, 3), capture_logs() as lines:
            acceptor = Acceptor(listener, taken.protocol)
            await taken.until(3)
        assert lines == []
        acceptor.close()
        taken.close()


@on_uvloop
async def test_connection_that_cannot_be_made_is_closed() -> None:
    class Bug(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)  # else the garbage collector would end it
            raise ZeroDivisionError

    made: list[asyncio.BaseTransport] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    with bind("127.0.0.1", 0) as listener, clients_of(listener, 1) as clients:
        acceptor = Acceptor(listener, lambda: Arrival(lambda _: Bug()))
        assert await asyncio.to_thread(_is_ended, clients[0])
        acceptor.close()


def _is_ended(client: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


@on_uvloop
async def test_closed_it_leaves_nobody_half_taken() -> None:
    taken = Taken()
    with bind("127.0.0.1", 0) as listener, clients_of(listener, 5):
        acceptor = Acceptor(listener, taken.protocol)
        await until(lambda: taken.of_round)
        acceptor.close()
        await acceptor.wait_closed()
        assert len(taken.transports) == 5
        taken.close()


@on_uvloop
async def test_closed_it_takes_no_more() -> None:
    ours, others = Taken(), Taken()
    with bind("127.0.0.1", 0) as listener, listener.dup() as shared:
        acceptor = Acceptor(listener, ours.protocol)
        acceptor.close()
        other = Acceptor(shared, others.protocol)
        with clients_of(listener, 5):
            await others.until(5)
        assert not ours.of_round
        other.close()
        others.close()


@on_uvloop
async def test_closed_while_it_pauses_it_takes_no_more() -> None:
    ours, others = Taken(), Taken()
    with bind("127.0.0.1", 0) as bound, Listener(fileno=bound.detach()) as listener, listener.dup() as shared:
        listener.errors = [errno.EMFILE]
        with clients_of(listener, 1), capture_logs() as lines:
            acceptor = Acceptor(listener, ours.protocol)
            await until(lambda: lines)
            acceptor.close()
            loop, goes_on = asyncio.get_running_loop(), asyncio.Event()
            loop.call_later(0.1, loop.call_later, 0.0, goes_on.set)  # after the pause
            await goes_on.wait()
            other = Acceptor(shared, others.protocol)
            await others.until(1)
        assert not ours.of_round
        other.close()
        others.close()


def test_when_the_server_ends_nobody_is_on_the_way_who_would_not_hear_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []

    class Noting:
        def close(self) -> None:
            steps.append("closed")

        async def wait_closed(self) -> None:
            steps.append("all made")

    async def end(_server: uvicorn.Server, _sockets: object) -> None:
        steps.append("all told")

    monkeypatch.setattr(uvicorn.Server, "shutdown", end)
    with bind("127.0.0.1", 0) as listener:
        server = Server(None, Arrival, 0.0, lambda: None, lambda: None, is_node_stopping=lambda: False)
        server.servers = [Noting()]  # type: ignore[list-item] # as our own does
        asyncio.run(server.shutdown([listener]))
    assert steps == ["closed", "all made", "all told"]
