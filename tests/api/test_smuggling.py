"""Whatever two servers could read differently is refused, alone, and ends the connection: no request hides in
another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

import pytest

from tests.api.smuggling import CORPUS, MARK, SMUGGLED
from tests.api.test_lane import a_request, target_of
from tests.api.twins import Twin, Twins, all_of, the_twins

ASK = a_request(target_of())
MUTATIONS = 400


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    """Both kinds of connection."""
    with the_twins() as both:
        yield both


def _answers(server: Twin, request: bytes) -> bytes:
    """Return all that comes before the server closes, which it does by itself."""
    with server.connect() as connection:
        connection.sendall(request)
        return all_of(connection)


def _statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@pytest.mark.parametrize("kind", ["lane", "documented"])
def test_request_that_could_be_read_differently_is_refused_alone(twins: Twins, kind: str) -> None:
    server: Twin = getattr(twins, kind)
    for name, request in CORPUS.items():
        answer = _answers(server, request + SMUGGLED)
        statuses = _statuses(answer)
        assert len(statuses) == 1, (name, answer)
        assert statuses[0] in (400, 408, 413, 431, 501), (name, answer)
        assert MARK not in answer, name
        assert b"\r\nconnection: close\r\n" in answer.lower(), name


@pytest.mark.parametrize("kind", ["lane", "documented"])
def test_it_hides_nothing_behind_a_good_request_either(twins: Twins, kind: str) -> None:
    server: Twin = getattr(twins, kind)
    for name, request in CORPUS.items():
        answer = _answers(server, ASK + request + SMUGGLED)
        assert _statuses(answer)[0] == 200, name
        assert len(_statuses(answer)) == 2, (name, answer)
        assert MARK not in answer, name


def test_mark_would_be_seen(twins: Twins) -> None:
    """Else the tests above would find nothing."""
    for server in (twins.lane, twins.documented):
        assert MARK in _answers(server, ASK + SMUGGLED)


def test_damaged_requests_are_answered_or_refused_and_the_server_lives(twins: Twins) -> None:
    chance = Random(6)
    sound = [ASK, SMUGGLED, *CORPUS.values()]
    for _ in range(MUTATIONS):
        request = bytearray(chance.choice(sound))
        for _ in range(chance.randrange(1, 6)):
            request[chance.randrange(len(request))] = chance.randrange(256)
        for server in (twins.lane, twins.documented):
            with server.connect() as connection:
                connection.sendall(request)
                connection.shutdown(1)
                try:
                    answer = all_of(connection)
                except ConnectionResetError:
                    answer = b""
            assert 500 not in _statuses(answer), bytes(request)
    for server in (twins.lane, twins.documented):
        assert _statuses(server.exchange(ASK)) == [200]
