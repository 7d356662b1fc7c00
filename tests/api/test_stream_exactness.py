"""Whoever follows a stream knows exactly what the log knows: no gap, nothing twice, at every moment it is told of."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from tests.api.calls import BATCH, CHANGES, a_fresh_key, after, created, head_of, revision_of
from tests.api.streams import Event, Stream, streaming
from tests.node import Json, Node, path_of
from tests.servers import PostgresServer

Table = dict[tuple[str, str], tuple[str, int]]


class Copy:
    """A copy of a tenant's active routes, as a reader of a stream keeps it: each batch as a whole, or not at all."""

    def __init__(self) -> None:
        self.table: Table = {}
        self.position = 0  # what the table is true at
        self.told: list[int] = []
        self.shown: set[int] = set()  # revisions of the routes in the snapshot
        self.snapshots = 0
        self._held: list[Json] = []
        self._is_whole = False

    @property
    def is_exact(self) -> bool:
        """Return whether the table is what the routes were at the position."""
        return self._is_whole and not self._held

    def take(self, event: Event) -> None:
        """Take in one event."""
        if event.kind == "snapshot":
            self.table, self._held, self._is_whole = {}, [], False
            self.snapshots += 1
        elif event.kind == "route":
            self.shown.add(event.data["revision"])
            self._put(event.data)
        elif event.kind == "change":
            self.told.append(event.data["revision"])
            self._held.append(event.data)
        if event.kind == "snapshot-end":
            self._is_whole = True
        if event.id is not None:
            self._apply(revision_of(event.id))

    def _apply(self, reached: int) -> None:
        if self._held and self._held[-1]["batch_end"] > reached:
            return  # the rest of the batch is on its way
        for change in self._held:
            self._put(change) if change["is_active"] else self.table.pop(_names(change), None)
        self._held, self.position = [], reached

    def _put(self, route: Json) -> None:
        self.table[_names(route)] = (route["url"], route["revision"])


def _names(document: Json) -> tuple[str, str]:
    return document["service"], document["version"]


class Log:
    """What a tenant's routes were at every revision, told by the log itself."""

    def __init__(self, api: httpx2.Client, tenant: str) -> None:
        self.changes: list[Json] = []
        position = "0"
        while True:
            page = api.get(CHANGES, params={"after": position, "tenant": tenant, "limit": 1000}).json()
            self.changes += page["changes"]
            position = page["next_after"]
            if position == page["head"]:
                break

    def at(self, revision: int) -> Table:
        """Return the active routes at *revision*."""
        table: Table = {}
        for change in self.changes:
            if change["revision"] > revision:
                break
            if change["is_active"]:
                table[_names(change)] = (change["url"], change["revision"])
            else:
                table.pop(_names(change), None)
        return table


@contextmanager
def _writing(node: Node, tenant: str, writers: int = 3) -> Iterator[None]:
    """Change the tenant's routes, and others', in singles and batches, until the block ends."""
    is_over = threading.Event()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with node.client() as api:
            while not is_over.is_set():
                _change_some(api, chance, tenant)

    with ThreadPoolExecutor(writers) as crew:
        work = [crew.submit(write, seed) for seed in range(writers)]
        try:
            yield
        finally:
            is_over.set()
    for done in work:
        done.result()


def _change_some(api: httpx2.Client, chance: random.Random, tenant: str) -> None:
    key = {"tenant": tenant, "service": f"s{chance.randrange(8)}", "env": "e", "version": "v"}
    url = f"https://h{chance.randrange(10**9)}.example.com"
    kind = chance.randrange(4)
    if kind == 0:
        api.delete(path_of(key))
    elif kind == 1:
        other = {**key, "tenant": f"{tenant}-other"}
        operations = [
            {"operation": "put", **k, "url": url} for k in (key, other, {**key, "version": "w"}, other)
        ]
        api.post(BATCH, json={"operations": operations})
    else:
        api.put(path_of(key), json={"url": url, "is_active": kind == 2})


class TestUnderWrites:
    def test_snapshot_and_changes_are_the_log_at_every_moment(self, stack: Node, api: httpx2.Client) -> None:
        tenant = a_fresh_key()["tenant"]
        moments: list[tuple[int, Table]] = []
        with _writing(stack, tenant):
            for _ in range(8):
                copy = Copy()
                with streaming(stack, include="snapshot", tenant=tenant) as stream:
                    while len(copy.told) < 15:
                        copy.take(stream.next())
                        if copy.is_exact:
                            moments.append((copy.position, dict(copy.table)))
                assert copy.told == sorted(set(copy.told))
                assert copy.shown.isdisjoint(copy.told), "what a route shows is not told again"
        log = Log(api, tenant)
        assert len(moments) > 50
        for position, table in moments:
            assert table == log.at(position), position

    def test_stream_cut_anywhere_tells_each_change_once(self, stack: Node, api: httpx2.Client) -> None:
        tenant, start, chance = a_fresh_key()["tenant"], head_of(api), random.Random(7)
        told: list[int] = []
        position = start
        with _writing(stack, tenant):
            for _ in range(25):
                with Stream(stack, {"tenant": tenant}, {"Last-Event-ID": position}) as stream:
                    for _ in range(chance.randrange(1, 12)):
                        event = stream.next()
                        if event.kind == "change":
                            told.append(event.data["revision"])
                        position = event.id or position
        expected = [c["revision"] for c in Log(api, tenant).changes if c["revision"] > revision_of(start)]
        assert len(told) > 40
        assert told == expected[: len(told)]

    def test_readers_of_each_filter_are_told_what_matches(self, stack: Node, api: httpx2.Client) -> None:
        tenant, head = a_fresh_key()["tenant"], head_of(api)
        filters: list[dict[str, str]] = [{"tenant": tenant}, {"service": "s1", "tenant": tenant}]
        filters += [{"version": "w", "tenant": tenant}, {"tenant": f"{tenant}-other"}]
        with _writing(stack, tenant):
            streams = [Stream(stack, {**wanted, "after": head}) for wanted in filters]
            found = [[stream.next("change").data for _ in range(10)] for stream in streams]
            for stream in streams:
                stream.close()
        for wanted, changes in zip(filters, found, strict=True):
            log = [c for c in Log(api, wanted["tenant"]).changes if c["revision"] > revision_of(head)]
            matching = [c for c in log if all(c[name] == value for name, value in wanted.items())]
            assert changes == matching[:10]


@pytest.mark.servers
class TestTwoNodes:
    def test_reader_goes_on_at_the_other_node_where_it_was(
        self, tmp_path: Path, postgres: PostgresServer, postgres_settings: dict[str, str]
    ) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        with (
            Node(tmp_path / "a", postgres_settings) as a,
            Node(tmp_path / "b", postgres_settings) as b,
            a.start("--migrate").client() as api,
        ):
            b.start()
            told, position, nodes = [], after(head_of(api), 0), [a, b]
            with _writing(a, "t", 1), _writing(b, "t", 1):
                for turn in range(12):
                    with streaming(nodes[turn % 2], {"Last-Event-ID": position}) as stream:
                        for _ in range(6):
                            event = stream.next("change")
                            told.append(event.data["revision"])
                            position = str(event.id)
            assert told == list(range(1, len(told) + 1))
            key = created(api)
            with streaming(b, {"Last-Event-ID": head_of(api)}, tenant=key["tenant"]) as stream:
                api.delete(path_of(key))
                assert stream.next("change").data["action"] == "deleted"
            assert all(later - earlier == 1 for earlier, later in pairwise(told))
