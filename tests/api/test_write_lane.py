"""The fast way for changes gives the answers of the documented routes: the same bytes, for the same history.

Two servers over databases in memory, whose clocks stand still. One has the lane, the other none. Both get the same
requests over real sockets, and what is compared is all that a connection carries until the server closes it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from struct import pack
from threading import Event
from typing import Any, cast

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.access.builders import PEPPER, stored
from tests.api.calls import ROUTES, a_fresh_key
from tests.api.twins import TIMEOUT_S, FakeFollower, Twin, a_limiter, all_of, comparable, in_lanes
from tests.monitoring.exposition import values
from tests.node import Json, a_key, path_of, wait_until
from tests.routing.memory_store import MemoryStore
from traffic_manager.access.credentials import Credential
from traffic_manager.access.keyring import Keyring
from traffic_manager.api.access import Gate
from traffic_manager.api.connection import Connection
from traffic_manager.api.context import Parts
from traffic_manager.api.lane import LaneConnection
from traffic_manager.api.origin import TrustedProxies
from traffic_manager.api.pages import PageTokens
from traffic_manager.api.turns import PATIENCE_S
from traffic_manager.config.loading import load_settings
from traffic_manager.monitoring.access_log import AccessLog
from traffic_manager.routing.bulkhead import Bulkhead
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Entry, Limit, Table
from traffic_manager.routing.registry import Registry
from traffic_manager.routing.resolver import Resolver
from traffic_manager.routing.urls import UrlPolicy

AT_S = 1_767_225_600.123456
JSON = "application/json"
PUT_PATH = path_of(a_key())
URL = "https://payments.example.com/v2"
KNOWN = "team-a/known/prod/v2"
EDITOR, VIEWER, STRANGER = (Credential.new() for _ in range(3))


class Twins:
    """Both servers, with a history each."""

    def __init__(self, gate: Gate, *limits: Limit) -> None:
        self.lane = Twin(_parts(gate, *limits), in_lanes)
        self.documented = Twin(
            _parts(gate, *limits), lambda parts: partial(Connection, parts.metrics, parts.turns)
        )
        self.all = (self.lane, self.documented)

    def answers(self, *parts: bytes) -> tuple[bytes, bytes]:
        """Return what both answer to the same bytes, comparably; the lane gets them in *parts*."""
        return comparable(self.lane.exchange(*parts)), comparable(self.documented.exchange(b"".join(parts)))


def _parts(gate: Gate, *limits: Limit) -> Parts:
    nothing = cast("Any", None)
    store, mirror = MemoryStore(clock=lambda: AT_S), Mirror(max_routes=100)
    mirror.load(Table(store.head, b"", {KNOWN: Entry(URL, 5)}, [], 0))
    follower = cast("Any", FakeFollower())
    needed = {
        "settings": load_settings(env_file=None),
        "mirror": mirror,
        "follower": follower,
        "resolver": Resolver(mirror, follower, nothing, nothing, nothing, nothing),
        "registry": Registry(store, lambda _: None),
        "store": store,
        "reads": Bulkhead("read", 2, 1.0),
        "url_policy": UrlPolicy(),
        "proxies": TrustedProxies(("127.0.0.1/32",)),
        "gate": gate,
        "page_tokens": PageTokens(None),
        "limiter": a_limiter(*limits),
        "access_log": AccessLog(0.0),
    }
    return Parts(**{**dict.fromkeys((part.name for part in fields(Parts)), nothing), **needed})


@contextmanager
def _running(gate: Gate, *limits: Limit) -> Iterator[Twins]:
    twins = Twins(gate, *limits)
    for twin in twins.all:
        twin.parts.registry.start()
        twin.start()
    try:
        yield twins
    finally:
        for twin in twins.all:
            twin.stop()
            twin.parts.registry.stop()


@pytest.fixture
def twins() -> Iterator[Twins]:
    """Servers that ask nobody for a key, with nothing in them."""
    with _running(Gate(None)) as both:
        yield both


@pytest.fixture(scope="module")
def driven_twins() -> Iterator[Twins]:
    """The same for all drawn requests, so that they meet what others have left."""
    with _running(Gate(None)) as both:
        yield both


@pytest.fixture(scope="module")
def guarded_twins() -> Iterator[Twins]:
    """Servers that ask for a key."""
    keyring = Keyring(PEPPER)
    keyring.load([stored(EDITOR, "editor:team-a/prod"), stored(VIEWER, "viewer:*/*")])
    with _running(Gate(keyring)) as both:
        yield both


@pytest.mark.parametrize("subject", [("tenant", "team-a"), ("principal", "anonymous")])
def test_both_refuse_alike_what_is_beyond_a_limit(subject: tuple[str, str]) -> None:
    with _running(Gate(None), Limit(*subject, writes=0)) as twins:
        for request in PLAIN[:7]:
            of_lane, documented = twins.answers(request)
            assert of_lane == documented
            assert of_lane.startswith(b"HTTP/1.1 429 ")


def a_request(
    method: str, target: str, body: bytes | str, *headers: tuple[str, str], media_type: str = JSON
) -> bytes:
    """Return a request as clients send it."""
    content = body.encode() if isinstance(body, str) else body
    own = [("Host", "localhost"), ("Content-Type", media_type), ("Content-Length", str(len(content)))]
    lines = [f"{method} {target} HTTP/1.1", *(": ".join(header) for header in (*own, *headers))]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def a_body(key: Json, url: str | None = None) -> str:
    """Return the body of a POST."""
    members = [f'"{name}": "{value}"' for name, value in (key | ({"url": url} if url else {})).items()]
    return "{" + ", ".join(members) + "}"


def a_resolve(service: str = "payments") -> bytes:
    """Return a plain resolve: of a route that the mirror knows from the start, or of one that is written here."""
    query = "&".join(f"{name}={value}" for name, value in a_key(service).items())
    return f"GET {ROUTES}/resolve?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


PLAIN = [
    a_request("PUT", PUT_PATH, f'{{"url": "{URL}"}}'),
    a_request("PUT", PUT_PATH, f'{{"url":"{URL}"}}', ("X-Correlation-ID", "mine")),
    a_request("PUT", PUT_PATH, f'{{ "is_active" : false ,\n"url" : "{URL}/" }}', ("Accept", "*/*")),
    a_request("POST", f"{ROUTES}/activate", a_body(a_key())),
    a_request("POST", f"{ROUTES}/deactivate", a_body(a_key())),
    a_request("POST", f"{ROUTES}/activate", a_body(a_key("unknown")), ("X-Correlation-ID", "404")),
    a_request("POST", ROUTES, a_body(a_key("new"), URL)),
    a_request("POST", ROUTES, a_body(a_key("new"), URL)),
    a_request("POST", ROUTES, a_body(a_key("new"), f"{URL}/other")),
    a_request("PUT", PUT_PATH, f'{{"url": "{URL}"}}', ("Connection", "close")),
]

METHODS = [*["PUT"] * 8, *["POST"] * 8, "GET", "HEAD", "DELETE", "PATCH", "put"]
PATHS = [
    *[PUT_PATH] * 6, *[ROUTES] * 4, *[f"{ROUTES}/activate"] * 2, *[f"{ROUTES}/deactivate"] * 2,
    f"{PUT_PATH}/", f"/{PUT_PATH}", f"http://other{PUT_PATH}", f"{PUT_PATH}?", f"{PUT_PATH}?url=x", f"{PUT_PATH}#x",
    path_of(a_key(service="a+b", version="~")), path_of(a_key(service="a%2Bb")), path_of(a_key(service="a..b")),
    path_of(a_key(service="-a")), path_of(a_key(service="n" * 128)), path_of(a_key(service="n" * 129)),
    path_of(a_key(service="a%2Fb")), path_of(a_key(service="")), f"{ROUTES}/", f"{ROUTES}/Activate",
    f"{ROUTES}/batch",
]  # fmt: skip
NAMES = ["payments", "billing", "a+b", "", "-a", "a..b", "n" * 129, "\xfc"]
URLS = [
    *[f"https://s{n}.example.com/" for n in range(3)] * 3, "http://[::1]:80/?a=b", "http://169.254.169.254/",
    "ftp://x.example", "https://x.example/#f", "https://u:p@x.example", "", ":", ":80", "https://x.example/ ",
    "x" * 2049, "https://xn--a.example", "https://\xfc.example", 'https://x.example/\\"', "https:\\/\\/x.example/",
    "\\u0000", "\\ud800",
]  # fmt: skip
HEADERS = [
    ("If-Match", ["*", '"abababab.1"', "x"]),
    ("If-None-Match", ["*", '"abababab.1"']),
    ("X-Correlation-ID", ["id-1", "", "a b", "i" * 65]),
    ("Connection", ["keep-alive", "close"]),
    ("Content-Type", [JSON, "text/plain"]),
    ("Content-Encoding", ["identity", "gzip"]),
    ("TM-Min-Revision", ["x", "abababab.1"]),
    ("Expect", ["100-continue"]),
    ("Accept", ["text/html", "*/*"]),
    ("Authorization", ["Bearer x"]),
    ("Cache-Control", ["no-cache"]),
    ("TM-Reason", ["why not", "", "r" * 256, "r" * 257, "\xfc", "\xc3\xbc", "a\tb", "\xe2\x80\xae"]),
    ("X-Forwarded-For", ["203.0.113.7", "nonsense", "203.0.113.7, 127.0.0.1"]),
    ("Idempotency-Key", ["one", '"one"', "two", "", '"', 'a"b', "a b", "a\\b", "k" * 255, "k" * 256, "\xfc"]),
]
MEDIA_TYPES = [
    *[JSON] * 10, f"{JSON}; charset=utf-8", f"{JSON};charset=latin-1", "Application/JSON", "text/json", "",
    f" {JSON} ",
]  # fmt: skip
ODD_BODIES = [
    "", "{}", "[]", "null", "{", '{"url": "https://x.example/"} ', '\ufeff{"url": "https://x.example/"}', "NaN",
    '{"url": "https://a.example/", "url": "https://b.example/"}', '{"url": ["https://x.example/"]}', "x" * 16_385,
    '{"url": "https://x.example/", "is_active": "true"}', '{"url": "https://x.example/", "is_active": null}',
    '{"url": "https://x.example/", "is_active": 1}', '{"url": "https://x.example/", "more": true}', "[" * 20,
    '{"url": "https://x.example/", "\\u0075rl": "https://y.example/"}', '{"url":"https://x.example/",}',
    '{"url": "https://x.example/"}{}', '{"tenant": {"a": "b"}}', '{"": "https://x.example/"}', '{"url": 1e999}',
]  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Draw a body that some call takes, mostly."""
    members = []
    if draw(st.booleans()):
        members += [f'"{name}": "{value}"' for name, value in a_key(draw(st.sampled_from(NAMES))).items()]
    if draw(st.integers(0, 3)):
        members.append(f'"url": "{draw(st.sampled_from(URLS))}"')
    if not draw(st.integers(0, 3)):
        members.append(f'"is_active": {draw(st.sampled_from(["true", "false"]))}')
    colon, comma = draw(st.sampled_from([":", ": ", " :\t"])), draw(st.sampled_from([",", ", ", "\r\n, "]))
    return "{" + comma.join(draw(st.permutations(members))).replace(": ", colon) + "}"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request, odd or not, now and then a resolve between the changes."""
    if not draw(st.integers(0, 4)):
        return a_resolve(draw(st.sampled_from(["payments", "known", "new"])))
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2)) if draw(st.booleans()) else []
    body = draw(st.sampled_from(ODD_BODIES)) if not draw(st.integers(0, 4)) else draw(bodies())
    return a_request(
        draw(st.sampled_from(METHODS)),
        draw(st.sampled_from(PATHS)),
        body,
        *((name, draw(st.sampled_from(values))) for name, values in headers),
        media_type=draw(st.sampled_from(MEDIA_TYPES)),
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=st.lists(requests(), min_size=1, max_size=4))
def test_any_requests_on_a_connection_are_answered_alike(driven_twins: Twins, stream: list[bytes]) -> None:
    fast, documented = driven_twins.answers(b"".join(stream))
    assert fast == documented
    here, there = (store_of(twin).log() for twin in driven_twins.all)
    assert len(here) == len(there)


ODD = [
    *[a_request("PUT", PUT_PATH, body) for body in ODD_BODIES],
    *[a_request("POST", f"{ROUTES}/activate", body) for body in ODD_BODIES],
    *[a_request("PUT", PUT_PATH, f'{{"url": "{url}"}}') for url in URLS],
    *[a_request("POST", ROUTES, a_body(a_key(name), URL)) for name in NAMES],
    *[a_request(method, path, f'{{"url": "{URL}"}}') for method in METHODS for path in set(PATHS)],
    *[a_request("PUT", PUT_PATH, f'{{"url": "{URL}"}}', media_type=media_type) for media_type in MEDIA_TYPES],
    *[
        a_request("PUT", PUT_PATH, f'{{"url": "{URL}"}}', (name, value))
        for name, values in HEADERS
        for value in values
    ],
    a_request("POST", ROUTES, a_body(a_key(), URL)[:-1] + f', "url": "{URL}/two"}}'),
    a_request("POST", f"{ROUTES}/activate", a_body(a_key(), URL)),
    a_request("PUT", PUT_PATH, a_body(a_key(), URL)),
]


def test_what_is_odd_in_one_way_is_answered_alike(driven_twins: Twins) -> None:
    for odd in dict.fromkeys(ODD):
        fast, documented = driven_twins.answers(odd)
        assert fast == documented, odd[:300]


def test_plain_changes_are_answered_and_made_alike(twins: Twins) -> None:
    fast, documented = twins.answers(b"".join(PLAIN))
    assert fast == documented
    statuses = re.findall(rb"HTTP/1\.1 ([0-9]+)", fast)
    assert statuses == [b"201", b"200", b"200", b"200", b"200", b"404", b"201", b"200", b"409", b"200"]
    here, there = (store_of(twin) for twin in twins.all)
    made = [(c.revision, c.key, c.action, c.url, c.is_active, c.actor, c.previous) for c in here.log()]
    assert made == [
        (c.revision, c.key, c.action, c.url, c.is_active, c.actor, c.previous) for c in there.log()
    ]
    assert len(made) == 6


def test_changes_that_are_done_once_are_answered_alike_each_time(twins: Twins) -> None:
    for sent in range(2):
        for number, plain in enumerate(PLAIN):
            named = plain.replace(b"\r\n", b"\r\nIdempotency-Key: n-%d\r\n" % number, 1)
            fast, documented = twins.answers(named)
            assert fast == documented
            is_replay = sent > 0 and fast.startswith(b"HTTP/1.1 20")
            assert (b"\r\nidempotency-replayed: ?1\r\n" in fast) == is_replay, named
    assert [len(store_of(twin).log()) for twin in twins.all] == [6, 6]
    assert _counts(twins.lane) == _counts(twins.documented)
    reused = PLAIN[6].replace(b"\r\n", b"\r\nIdempotency-Key: n-0\r\n", 1)
    fast, documented = twins.answers(reused)
    assert fast == documented
    assert b"idempotency-key-reused" in fast


def test_who_made_a_change_whence_and_why_is_written_down_alike(twins: Twins) -> None:
    said = (b"TM-Reason: h\xc3\xb6her", b"TM-Reason: INC-42", b"X-Forwarded-For: 203.0.113.7")
    for plain in PLAIN[:-1]:
        fast, documented = twins.answers(plain.replace(b"\r\n", b"\r\n%b\r\n" % b"\r\n".join(said), 1))
        assert fast == documented
    logs = [[(c.actor, c.address, c.reason) for c in store_of(twin).log()] for twin in twins.all]
    assert logs[0] == logs[1] == [("anonymous", "203.0.113.7", "h\xf6her, INC-42")] * 5


def test_plain_changes_never_come_as_far_as_the_documented_routes(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the comparisons here would compare the routes with themselves."""
    monkeypatch.setattr(LaneConnection, "hand_over", None)
    named = [plain.replace(b"\r\n", b"\r\nIdempotency-Key: k\r\n", 1) for plain in PLAIN]
    assert all(twins.lane.exchange(plain).startswith(b"HTTP/1.1 ") for plain in (*PLAIN, *named))


@pytest.mark.parametrize("number", [0, 3, 6])
def test_a_request_in_two_parts_is_answered_like_a_whole_one(twins: Twins, number: int) -> None:
    for plain in PLAIN[:6]:
        twins.answers(plain)
    twins.answers(PLAIN[number])  # so that it changes nothing any more
    whole = comparable(twins.documented.exchange(PLAIN[number]))
    for at in range(1, len(PLAIN[number]), 3):
        assert comparable(twins.lane.exchange(PLAIN[number][:at], PLAIN[number][at:])) == whole, at


MIXED = b"".join(
    [a_resolve(), PLAIN[0], a_resolve(), a_resolve("known"), PLAIN[4], PLAIN[3], a_resolve(), PLAIN[-1]]
)


def test_a_pipeline_of_changes_and_resolves_is_answered_alike_wherever_it_is_cut(twins: Twins) -> None:
    twins.answers(MIXED)  # from here on both make the same changes each time
    for at in range(1, len(MIXED), 7):
        fast, documented = twins.answers(MIXED[:at], MIXED[at:])
        assert fast == documented, at
        assert fast.count(b"HTTP/1.1 ") == 8


def test_a_body_that_comes_late_is_waited_for_by_the_documented_route(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traffic_manager.api.lane.BODY_S", 0.0)
    torn = PLAIN[0][:-5]
    with twins.lane.connect() as connection:
        connection.sendall(torn)
        wait_until(lambda: twins.lane.server.server_state.tasks, what="the documented route")
        connection.sendall(PLAIN[0][-5:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


class Held:
    """Holds the writer of *twin* back before its commits."""

    def __init__(self, twin: Twin) -> None:
        self._go, self._entered = Event(), Event()
        store_of(twin).before_commit = self._wait

    def _wait(self) -> None:
        self._entered.set()
        self._go.wait(TIMEOUT_S)

    def until_entered(self) -> None:
        """Wait until the writer stands before a commit."""
        assert self._entered.wait(TIMEOUT_S)

    def let_go(self) -> None:
        """Let it commit."""
        self._go.set()


def store_of(twin: Twin) -> MemoryStore:
    """Return what is behind *twin*."""
    return cast("MemoryStore", twin.parts.store)


def _has_no_connection(twin: Twin) -> bool:
    return not twin.server.server_state.connections


def _has_written(twin: Twin) -> bool:
    return _counts(twin)["write_success_total"] == 1


def _is_ending(twin: Twin) -> bool:
    return not twin.connections[-1].cycle.keep_alive


def _bug() -> None:
    raise ZeroDivisionError


def test_a_change_whose_caller_goes_away_is_made_and_counted_alike(twins: Twins) -> None:
    for twin in twins.all:
        held = Held(twin)
        with twin.connect() as connection:
            connection.sendall(PLAIN[0])
            held.until_entered()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        wait_until(partial(_has_no_connection, twin), what="the reset")
        held.let_go()
        wait_until(partial(_has_written, twin), what="the change")
    assert [len(store_of(twin).log()) for twin in twins.all] == [1, 1]
    wait_until(lambda: _counts(twins.lane) == _counts(twins.documented), what="the same counts")
    assert twins.lane.exchange(PLAIN[-1]).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("round_s", [0.0, PATIENCE_S], ids=["its turn comes", "it waits too long"])
def test_a_change_whose_caller_goes_away_before_its_turn_is_not_made_but_counted(
    twins: Twins, round_s: float
) -> None:
    for twin in twins.all:
        with twin.without_turns(), twin.connect() as connection:
            connection.sendall(PLAIN[0])
            wait_until(partial(_has_waiting, twin), what="the change to wait")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
            connection.close()
            wait_until(partial(_has_no_connection, twin), what="the reset")
            if round_s:
                twin.turns.pace(round_s, at_once=0)
                wait_until(partial(_has_counted_gone, twin), what="the end of its wait")
        wait_until(partial(_has_counted_gone, twin), what="the count")
        twin.parts.registry.stop()
        assert store_of(twin).head.revision == 0


def _has_waiting(twin: Twin) -> bool:
    return twin.turns.may_refuse


def _has_counted_gone(twin: Twin) -> bool:
    """Return whether one request was counted in all, with this status."""
    counted = values(twin.parts.metrics.render()).items()
    requests = [name for name, count in counted if name.startswith("api_requests_total{") and count]
    return [re.findall(r'status_code="(\d+)"', name) for name in requests] == [["499"]]


def test_changes_that_wait_too_long_for_their_turn_are_refused_alike_and_not_made(twins: Twins) -> None:
    paths = [path_of(a_key(f"service-{number}")) for number in range(12)]
    changes = [a_request("PUT", path, f'{{"url": "{URL}"}}') for path in paths]
    seen = []
    for twin in twins.all:
        with twin.one_at_a_time() as server:
            answers = server.answers_together(changes)
        seen.append([answer.split()[1] for answer in answers])
        assert store_of(twin).head.revision == seen[-1].count(b"201")
    assert seen[0] == seen[1] == [b"201"] * 9 + [b"503"] * 3


def test_nothing_that_is_asked_behind_a_change_is_answered_before_it(twins: Twins) -> None:
    answers = []
    for twin in twins.all:
        held = Held(twin)
        with twin.connect() as connection:
            connection.sendall(PLAIN[0] + a_resolve("known") + PLAIN[-1])
            held.until_entered()
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
            connection.settimeout(TIMEOUT_S)
            held.let_go()
            answers.append(comparable(all_of(connection)))
    assert answers[0] == answers[1]
    assert re.findall(rb"HTTP/1\.1 ([0-9]+)", answers[0]) == [b"201", b"200", b"200"]


def test_a_change_under_way_is_answered_before_the_server_ends(twins: Twins) -> None:
    answers = []
    for twin in twins.all:
        held = Held(twin)
        with twin.connect() as connection:
            connection.sendall(PLAIN[0])
            held.until_entered()
            twin.server.should_exit = True
            wait_until(partial(_is_ending, twin), what="the end")
            held.let_go()
            answers.append(comparable(all_of(connection)))
    assert answers[0] == answers[1]
    assert b"\r\nconnection: close\r\n" in answers[0]


def test_a_bug_is_answered_logged_and_counted_alike(twins: Twins) -> None:
    with capture_logs() as logs:
        for twin in twins.all:
            store_of(twin).before_commit = _bug
        fast, documented = twins.answers(PLAIN[0])
    assert fast == documented
    assert fast.startswith(b"HTTP/1.1 500 ")
    assert _counts(twins.lane) == _counts(twins.documented)
    said = [(line["event"], line["log_level"]) for line in logs if line["log_level"] != "debug"]
    assert said == [("unhandled_error", "error"), ("request_answered", "warning")] * 2


def test_requests_are_counted_alike(twins: Twins) -> None:
    twins.answers(b"".join(PLAIN))
    here, there = (_counts(twin) for twin in twins.all)
    assert here == there
    assert (here["write_requests_total"], here["write_failure_total"]) == (len(PLAIN), 2)


def _counts(twin: Twin) -> dict[str, float]:
    """Return the counters that requests move; durations differ, and that is what the lane is for."""
    lines = twin.parts.metrics.render().decode().splitlines()
    moved = ("write_", "tm_write_", "api_request")
    samples = [line.rpartition(" ") for line in lines if line.startswith(moved)]
    return {name: float(value) for name, _, value in samples if "_bucket" not in name and "_sum" not in name}


@pytest.mark.parametrize("shown", [None, EDITOR, VIEWER, STRANGER])
@pytest.mark.parametrize("key", [a_key(), a_key(env="staging"), a_key(tenant="team-b")])
def test_access_is_decided_alike(guarded_twins: Twins, shown: Credential | None, key: Json) -> None:
    credential = [("Authorization", f"Bearer {shown}")] if shown else []
    stream = [
        a_request("PUT", path_of(key), f'{{"url": "{URL}"}}', *credential),
        a_request("POST", f"{ROUTES}/deactivate", a_body(key), *credential),
        a_request("POST", ROUTES, a_body(key, URL), *credential),
    ]
    fast, documented = guarded_twins.answers(b"".join(stream))
    assert fast == documented
    is_permitted = shown is EDITOR and key == a_key()
    assert (b"HTTP/1.1 20" in fast) == is_permitted
    if is_permitted:
        made = cast("MemoryStore", guarded_twins.lane.parts.store).log()
        assert {change.actor for change in made} == {f"alice/{EDITOR.key_id}"}


def test_a_body_that_never_comes_is_refused_as_ever(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traffic_manager.api.requests.BODY_S", 0.2)
    torn = PLAIN[0][:-5]
    for twin in twins.all:
        with twin.connect() as connection:
            connection.sendall(torn)
            assert b"408 " in connection.recv(65536)


def test_a_real_server_answers_in_the_lane_as_around_it(sqlite_api: httpx2.Client) -> None:
    """A query keeps a request out of the lane only by an error; `If-Match` is what others send."""
    key = a_fresh_key()
    made = sqlite_api.put(path_of(key), json={"url": URL})
    around = sqlite_api.put(path_of(key), json={"url": URL}, headers={"If-Match": "*"})
    again = sqlite_api.put(path_of(key), json={"url": URL})
    assert (made.status_code, around.status_code, again.status_code) == (201, 200, 200)
    assert made.content == around.content == again.content
    assert made.headers["ETag"] == again.headers["ETag"]
    assert list(around.headers) == list(again.headers)
