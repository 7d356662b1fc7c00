"""Changes as server-sent events: what is told, from where, to whom, and how a stream ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.api.calls import (
    BATCH,
    CHANGES,
    OTHER_URL,
    URL,
    a_fresh_key,
    after,
    create,
    created,
    deactivated,
    head_of,
    of_other_history,
    revision_of,
)
from tests.api.streams import STREAM, Event, Stream, streaming
from tests.node import Node, path_of
from traffic_manager.monitoring.label_values import StreamEnd
from traffic_manager.routing.watchers import Ending


@contextmanager
def _streaming_from(revision: int, stack: Node) -> Iterator[Stream]:
    """Give a stream without a position that begins at *revision*: a worker may be a moment behind it."""
    for _ in range(100):
        with streaming(stack) as stream:
            if revision_of(stream.next("progress").data["position"]) >= revision:
                yield stream
                return
    raise AssertionError(f"no worker has come to revision {revision}")


class TestTelling:
    def test_stream_begins_where_it_is_asked_to_and_says_where_that_is(
        self, stack: Node, api: httpx2.Client
    ) -> None:
        head = head_of(api)
        with streaming(stack, after=head) as stream:
            first = stream.next()
            assert (first.kind, first.id, first.data) == ("progress", head, {"position": head})

    def test_changes_come_as_they_happen_and_look_as_in_the_log(
        self, stack: Node, api: httpx2.Client
    ) -> None:
        head = head_of(api)
        with streaming(stack, after=head) as stream:
            stream.next("progress")
            key = created(api)
            api.put(path_of(key), json={"url": OTHER_URL})
            found = [stream.next("change") for _ in range(2)]
        assert [event.data for event in found] == api.get(CHANGES, params={"after": head}).json()["changes"]
        assert [event.id for event in found] == [after(head, 1), after(head, 2)]

    def test_without_a_position_only_what_comes_is_told(self, stack: Node, api: httpx2.Client) -> None:
        created(api)
        with _streaming_from(revision_of(head_of(api)), stack) as stream:
            key = created(api)
            assert stream.next("change").data["tenant"] == key["tenant"]

    def test_last_event_id_goes_before_after(self, stack: Node, api: httpx2.Client) -> None:
        head = head_of(api)
        created(api)
        created(api)
        with streaming(stack, {"Last-Event-ID": after(head, 1)}, after=head) as stream:
            assert stream.next("change").id == after(head, 2)

    @pytest.mark.parametrize("name", ["tenant", "service", "env", "version"])
    def test_each_name_filters(self, stack: Node, api: httpx2.Client, name: str) -> None:
        key, head = a_fresh_key(), head_of(api)
        with streaming(stack, None, **{"after": head, name: f"only-{key['tenant']}"}) as stream:
            stream.next("progress")
            create(api, key)
            create(api, {**key, name: f"only-{key['tenant']}"})
            found = stream.next("change")
        assert (found.id, found.data[name]) == (after(head, 2), f"only-{key['tenant']}")

    def test_all_of_a_batch_comes_and_its_end_is_told_even_if_that_does_not_match(
        self, stack: Node, api: httpx2.Client
    ) -> None:
        mine, other, head = a_fresh_key(), a_fresh_key(), head_of(api)
        operations = [
            {"operation": "create", **key, "version": f"v{n}", "url": URL}
            for n, key in enumerate([mine, mine, other])
        ]
        with streaming(stack, after=head, tenant=mine["tenant"]) as stream:
            stream.next("progress")
            api.post(BATCH, json={"operations": operations})
            found = [stream.next() for _ in range(3)]
        assert [(e.kind, e.id) for e in found] == [
            ("change", after(head, 1)),
            ("change", after(head, 2)),
            ("progress", after(head, 3)),
        ]
        assert {e.data["batch_end"] for e in found[:2]} == {revision_of(head) + 3}

    def test_a_batch_of_many_pieces_comes_whole_to_a_stream_that_waits(
        self, stack: Node, api: httpx2.Client
    ) -> None:
        key, head = a_fresh_key(), head_of(api)
        operations = [{"operation": "create", **key, "version": f"v{n}", "url": URL} for n in range(300)]
        with streaming(stack, after=head, tenant=key["tenant"]) as stream:
            stream.next("progress")
            api.post(BATCH, json={"operations": operations})
            found = [stream.next() for _ in operations]
        assert [event.id for event in found] == [after(head, n + 1) for n in range(300)]

    def test_long_past_is_caught_up_and_joins_the_present(self, stack: Node, api: httpx2.Client) -> None:
        with streaming(stack, after=0) as stream:
            created(api)
            head = head_of(api)
            found: list[int] = []
            while not found or found[-1] < revision_of(head):
                found.append(stream.next("change").data["revision"])
        assert found == revisions_up_to(api, head)


def revisions_up_to(api: httpx2.Client, head: str) -> list[int]:
    """Return the revisions of all changes of routes up to *head*: keys and limits are changed here, too."""
    found: list[int] = []
    position = "0"
    while not found or found[-1] < revision_of(head):
        page = api.get("/api/v1/changes", params={"after": position, "limit": "1000"}).json()
        found += [change["revision"] for change in page["changes"]]
        position = page["next_after"]
    return [revision for revision in found if revision <= revision_of(head)]


class TestSnapshot:
    def test_active_routes_that_match_come_first_then_changes(self, stack: Node, api: httpx2.Client) -> None:
        key = created(api)
        create(api, {**key, "version": "v9"}, OTHER_URL)
        sleeping = deactivated(api)
        created(api)
        with streaming(stack, include="snapshot", tenant=key["tenant"]) as stream:
            begin, *routes, end = [stream.next() for _ in range(4)]
            api.delete(path_of(key))
            change = stream.next("change")
        assert [begin.kind, end.kind] == ["snapshot", "snapshot-end"]
        assert sorted((e.data["version"], e.data["url"]) for e in routes) == [("v2", URL), ("v9", OTHER_URL)]
        assert [e.id for e in (begin, *routes)] == [None] * 3, "a snapshot that was cut off is begun again"
        assert (end.data["routes"], end.id) == (2, end.data["position"])
        assert change.data["action"] == "deleted"
        with streaming(stack, include="snapshot", tenant=sleeping["tenant"]) as stream:
            assert [stream.next().kind for _ in range(2)] == ["snapshot", "snapshot-end"]

    def test_changes_made_meanwhile_come_before_its_end_and_are_no_positions(
        self, stack: Node, api: httpx2.Client
    ) -> None:
        """A slow reader holds the snapshot up: it is too large for all buffers on the way."""
        tenant, long = a_fresh_key()["tenant"], f"{URL}?{'x' * 1900}"
        keys = [{"tenant": tenant, "service": "s", "env": "e", "version": f"v{n}"} for n in range(4000)]
        for start in range(0, len(keys), 1000):
            operations = [{"operation": "create", **key, "url": long} for key in keys[start : start + 1000]]
            assert api.post(BATCH, json={"operations": operations}).status_code == 200
        copy = {key["version"]: long for key in keys}
        question = {"include": "snapshot", "tenant": tenant}
        with Stream(stack, question, receive_bytes=4096) as stream:
            events = [stream.next("route")]
            for changed, gone in zip(keys[::1000], keys[1::1000], strict=True):
                api.put(path_of(changed), json={"url": OTHER_URL})
                api.delete(path_of(gone))
                copy[changed["version"]] = OTHER_URL
                del copy[gone["version"]]
            while events[-1].kind != "snapshot-end":
                events.append(stream.next())
        assert [event.kind for event in events[-9:]] == ["change"] * 8 + ["snapshot-end"]
        assert {event.id for event in events[:-1]} == {None}
        assert _copied(events[:-1]) == copy
        told = {event.data["revision"] for event in events[-9:-1]}
        assert told.isdisjoint(event.data["revision"] for event in events[:-9]), (
            "what is told is not shown, too"
        )

    def test_reader_who_comes_back_with_its_position_needs_no_other(
        self, stack: Node, api: httpx2.Client
    ) -> None:
        key = created(api)
        with streaming(stack, {"Last-Event-ID": head_of(api)}, include="snapshot") as stream:
            assert stream.next().kind == "progress"
        assert key

    def test_reader_whose_position_is_gone_gets_another(self, stack: Node, api: httpx2.Client) -> None:
        lost = of_other_history(head_of(api))
        with streaming(stack, {"Last-Event-ID": lost}, include="snapshot", tenant="nobody") as stream:
            assert [stream.next().kind for _ in range(2)] == ["snapshot", "snapshot-end"]


class TestRefusals:
    @pytest.mark.parametrize("kind", ["future", "other history"])
    def test_position_that_cannot_be_gone_on_from_is_410_with_the_head(
        self, stack: Node, api: httpx2.Client, kind: str
    ) -> None:
        head = head_of(api)
        position = after(head, 1) if kind == "future" else of_other_history(head)
        answer = api.get(STREAM, params={"after": position})
        assert (answer.status_code, answer.json()["head"]) == (410, head)
        assert answer.json()["type"].endswith(":history-gone")

    @pytest.mark.parametrize(
        "query",
        ["after=x", "include=all", "tenant=..", "wait=1", "after=1&after=1", "tenant=", "limit=1"],
    )
    def test_ill_formed_question_is_400(self, sqlite_api: httpx2.Client, query: str) -> None:
        assert sqlite_api.get(f"{STREAM}?{query}").status_code == 400

    def test_ill_formed_after_is_400_where_last_event_id_counts(self, sqlite_api: httpx2.Client) -> None:
        answer = sqlite_api.get(STREAM, params={"after": ""}, headers={"Last-Event-ID": "0"})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "after")

    def test_ill_formed_last_event_id_is_400(self, sqlite_api: httpx2.Client) -> None:
        answer = sqlite_api.get(STREAM, headers={"Last-Event-ID": "soon"})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "Last-Event-ID")

    def test_other_methods_are_405(self, sqlite_api: httpx2.Client) -> None:
        answer = sqlite_api.post(STREAM)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def _copied(events: Sequence[Event]) -> dict[str, str]:
    """Return the active routes of which *events* told, by their versions."""
    copy: dict[str, str] = {}
    for event in events:
        if event.data.get("is_active", True):
            copy[event.data["version"]] = event.data["url"]
        else:
            copy.pop(event.data["version"], None)
    return copy


def test_every_reason_has_its_metric_and_its_line_in_the_documents() -> None:
    reasons = {ending.value for ending in Ending}
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert {end.value for end in StreamEnd} == reasons
    assert {reason for reason in reasons if f"| `{reason}` |" in page} == reasons - {Ending.DISCONNECTED}


def test_headers_keep_proxies_and_caches_out_of_the_way(sqlite_stack: Node) -> None:
    with Stream(sqlite_stack, headers={"X-Correlation-ID": "mine"}) as stream:
        headers = stream.begin().headers
    expected = {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
        "connection": "close",
        "x-correlation-id": "mine",
    }
    assert {name: headers[name] for name in expected} == expected
