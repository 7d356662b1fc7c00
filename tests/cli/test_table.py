"""`read_table` gives the table of one revision, whatever happens between its pages.

The server is played by a model: a log of changes and the tables that they make. Between any two calls more of
the log happens, so that each page shows a later moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_manager.client import (
    Change,
    ChangePage,
    Client,
    Filter,
    HistoryGone,
    Position,
    Problem,
    Reply,
    Route,
    RoutePage,
    TableMoved,
    read_table,
)

Act = tuple[str, str]  # version and what is done to it
ACTS = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from(["put", "toggle", "delete"])), max_size=40
)


class PlayedServer:
    """Serves the table in pages of two; *steps* says how far the log goes on before each call."""

    shown_url = "http://played"

    def __init__(self, acts: list[Act], steps: list[int], epochs: list[str] | None = None) -> None:
        self.tables: list[dict[str, Route]] = [{}]
        self.log: list[Change] = []
        for version, act in acts:
            self._happen(version, act)
        self.steps = iter(steps)
        self.epochs = iter(epochs or [])
        self.head = 0
        self.gone = 0

    def _happen(self, version: str, act: str) -> None:
        table, held = dict(self.tables[-1]), self.tables[-1].get(version)
        if held is None and act != "put":
            return
        revision, now = len(self.log) + 1, f"time-{len(self.log) + 1}"
        is_active = held is None or held.is_active != (act == "toggle")
        action = "created" if held is None else "deleted" if act == "delete" else "updated"
        url = f"https://h/{revision}"
        if action == "deleted":
            del table[version]
        else:
            created = now if held is None else held.created_at
            table[version] = Route("t", "s", "e", version, url, is_active, revision, created, now)
        shown = None if action == "deleted" else url
        self.log.append(
            Change(revision, revision, action, "t", "s", "e", version, shown, is_active, None, "", "", now)
        )
        self.tables.append(table)

    def _move_on(self) -> Position:
        self.head = min(len(self.log), self.head + next(self.steps, 0))
        return Position(next(self.epochs, "00000000"), self.head)

    def routes(self, wanted: Filter, *, page_token: str | None = None) -> Reply[RoutePage]:
        position = self._move_on()
        table = self.tables[self.head]
        versions = sorted(v for v in table if v > (page_token or ""))
        page = [table[v] for v in versions[:2]]
        return Reply(RoutePage(page, versions[1] if len(versions) > 2 else None), 200, position)

    def changes(self, after: Position, wanted: Filter) -> Reply[ChangePage]:
        head = self._move_on()
        if after.revision < self.gone:
            raise HistoryGone(Problem(410, head=str(head)))
        found = self.log[after.revision : self.head][:3]
        upto = found[-1].revision if found else after.revision
        return Reply(ChangePage(found, head, Position(head.epoch8, upto)), 200, head)


def table_of(server: PlayedServer, is_active: bool | None = None) -> tuple[int, list[Route]]:
    table = read_table(cast("Client", server), Filter(), is_active=is_active)
    return table.position.revision, list(table.routes)


@given(acts=ACTS, steps=st.lists(st.integers(0, 8), max_size=12))
def test_table_is_exactly_that_of_the_revision_it_names(acts: list[Act], steps: list[int]) -> None:
    server = PlayedServer(acts, steps)
    revision, routes = table_of(server)
    assert [route for _, route in sorted(server.tables[revision].items())] == routes


@given(acts=ACTS, steps=st.lists(st.integers(0, 8), max_size=12))
def test_routes_that_changed_their_state_meanwhile_are_filtered_by_the_last_one(
    acts: list[Act], steps: list[int]
) -> None:
    server = PlayedServer(acts, steps)
    revision, routes = table_of(server, is_active=True)
    expected = [route for _, route in sorted(server.tables[revision].items()) if route.is_active]
    assert expected == routes


PUTS: list[Act] = [(version, "put") for version in "abcdef"]


def test_a_server_that_is_behind_the_one_before_does_no_harm() -> None:
    server = PlayedServer([*PUTS, ("a", "put")], [7, -1, 0, 1])
    revision, routes = table_of(server)
    assert (7, list(server.tables[7].values())) == (revision, routes)


def test_another_history_between_two_pages_starts_over() -> None:
    server = PlayedServer(PUTS, [6], epochs=["00000000", "11111111"] + ["11111111"] * 9)
    assert len(table_of(server)[1]) == 6


def no_history(server: PlayedServer) -> None:
    server.gone = 10**9
    server.steps = iter([3, *[1] * 99])


def endless_restores(server: PlayedServer) -> None:
    server.steps = iter([6])
    server.epochs = iter(f"{n:08x}" for n in range(99))


@pytest.mark.parametrize("trouble", [no_history, endless_restores])
def test_a_table_that_never_holds_still_is_told_not_exported(trouble: Callable[[PlayedServer], None]) -> None:
    server = PlayedServer([*PUTS, *PUTS * 5], [])
    trouble(server)
    with pytest.raises(TableMoved):
        table_of(server)
