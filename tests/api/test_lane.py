"""The fast way for resolves gives the answers of the documented route: the same bytes, in the same order.

Both are asked over real sockets. What is compared is all that a connection carries until the server closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.calls import ROUTES, created, deactivated
from tests.api.twins import EPOCH, URL, Twins, comparable, the_twins
from tests.node import a_key
from traffic_manager.api import lane as api_lane
from traffic_manager.api import rendered
from traffic_manager.api.lane import LaneConnection
from traffic_manager.api.rendered import Found
from traffic_manager.routing.ports import Entry, Head

NAMES = ("tenant", "service", "env", "version")
TAG = f'"{EPOCH[:8]}.5"'
WORDS = [
    "nobody", "", "a b", "a+b", "a%2Bb", "a%20b", "%61", "a..b", "-a", "a.", "\xe9", "%C3%A9", "%ff", "a/b",
    "a%2Fb", "n" * 128, "n" * 129, "~", "a~b", "a_b", "A", "a%0a", "a%00", "a;b", "a=b", "a%26b", "%", "a#b",
]  # fmt: skip
EXTRAS = ["", "", "", "&", "&x=1", "&tenant=a", "&version=v2", ";", "&=", "&&", "#x", "&Tenant=a"]
PATHS = [
    *[f"{ROUTES}/resolve"] * 8, f"{ROUTES}/resolve/", f"/{ROUTES}/resolve", f"http://other{ROUTES}/resolve",
    "/api/v1/routes/r%65solve", "/health/live", f"http://other:80{ROUTES}/resolve", "*", "resolve",
]  # fmt: skip
METHODS = [*["GET"] * 12, "HEAD", "POST", "get", "OPTIONS", "DELETE", "CONNECT"]
VERSIONS = [*["HTTP/1.1"] * 12, "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1"]
HEADERS = [
    ("If-None-Match", [TAG, f"W/{TAG}", f'"x", {TAG}', f"{TAG},{TAG}", "*", "", f"{TAG}\xe9", "x"]),
    ("X-Correlation-ID", ["id-1", "A.b_c", "", "a b", "i" * 64, "i" * 65, "\xe9", "\x01", "0" * 24]),
    ("Connection", ["keep-alive", "close", "Close", "keep-alive, close", "upgrade", "x", ""]),
    ("Cache-Control", ["max-age=0", "no-store", ""]),
    ("TM-Min-Revision", [f"{EPOCH[:8]}.5", "x", ""]),
    ("Content-Length", ["0", "2", "+1", "x"]),
    ("Transfer-Encoding", ["chunked", "identity", "gzip, chunked"]),
    ("Expect", ["100-continue", "x"]),
    ("Upgrade", ["h2c", "websocket"]),
    ("Accept", ["*/*", "text/html", "application/json;q=0"]),
    ("Host", ["localhost", "", "a b"]),
    ("Bad Name", ["x"]),
    ("\xe9", ["x"]),
]
SPELLINGS: list[Callable[[str], str]] = [str, str, str, str.lower, str.upper, str.swapcase]
# Between name and value, and at the end of the line.
COLONS = [": ", ": ", ": ", ":", ":  ", ":\t", " : "]
ENDS = ["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", " \r\n", "\t\r\n", "\n", "\r\n x\r\n"]
BODIES = ["", "", "", "", "", "{}", "\r\n", "2\r\n{}\r\n0\r\n\r\n", "0\r\n\r\n"]


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    """The lane, and what it must not be told from."""
    with the_twins() as both:
        yield both


def target_of(path: str = f"{ROUTES}/resolve", **names: str) -> str:
    """Return the target of a plain resolve."""
    key = {**a_key(), **names}
    return f"{path}?" + "&".join(f"{name}={key[name]}" for name in NAMES)


def a_request(target: str, *headers: tuple[str, str]) -> bytes:
    """Return a GET as clients send it."""
    lines = [f"GET {target} HTTP/1.1", "Host: localhost", *(": ".join(header) for header in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@st.composite
def targets(draw: st.DrawFn) -> str:
    """Draw where a request goes: mostly to a resolve, with something odd."""
    key = {**a_key(), **draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(WORDS), max_size=2))}
    order = draw(st.one_of(st.just(NAMES), st.just(NAMES), st.permutations(NAMES), st.just(NAMES[:3])))
    query = "&".join(f"{name}={key[name]}" for name in order)
    return f"{draw(st.sampled_from(PATHS))}?{query}{draw(st.sampled_from(EXTRAS))}"


@st.composite
def header_lines(draw: st.DrawFn) -> str:
    """Draw a header, now and then spelled as no library would."""
    name, values = draw(st.sampled_from(HEADERS))
    spelling = draw(st.sampled_from(SPELLINGS))
    colon, end = draw(st.sampled_from(COLONS)), draw(st.sampled_from(ENDS))
    return f"{spelling(name)}{colon}{draw(st.sampled_from(values))}{end}"


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a request, odd or not."""
    line = f"{draw(st.sampled_from(METHODS))} {draw(targets())} {draw(st.sampled_from(VERSIONS))}\r\n"
    headers = draw(st.lists(header_lines(), max_size=4))
    return f"{line}{''.join(headers)}\r\n{draw(st.sampled_from(BODIES))}".encode("latin-1")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=st.lists(requests(), min_size=1, max_size=4))
def test_any_requests_on_a_connection_are_answered_alike(twins: Twins, stream: list[bytes]) -> None:
    fast, documented = twins.answers(b"".join(stream))
    assert fast == documented


PLAIN = [
    a_request(target_of()),
    a_request(target_of(version="v9"), ("X-Correlation-ID", "one"), ("Accept", "*/*")),
    a_request(target_of(), ("If-None-Match", TAG), ("x-correlation-id", "two")),
    a_request(target_of(version="strange"), ("If-None-Match", TAG), ("X-Correlation-Id", "")),
    a_request(target_of(), ("X-Correlation-ID", "one"), ("x-correlation-id", "two")),
    a_request(target_of(), ("X-CORRELATION-ID", "one")),
    a_request(target_of(), ("Connection", "close")),
]


@pytest.mark.parametrize("request_bytes", [*PLAIN, PLAIN[0] + PLAIN[1] + PLAIN[-1]])
def test_a_request_in_two_parts_is_answered_like_a_whole_one(twins: Twins, request_bytes: bytes) -> None:
    whole = comparable(twins.documented.exchange(request_bytes))
    for at in range(1, len(request_bytes)):
        assert comparable(twins.lane.exchange(request_bytes[:at], request_bytes[at:])) == whole, at


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(picked=st.lists(st.sampled_from(PLAIN[:-1]), min_size=2, max_size=12))
def test_heads_that_came_before_are_answered_alike(twins: Twins, picked: list[bytes]) -> None:
    fast = comparable(twins.lane.exchange(*picked))
    assert fast == comparable(twins.documented.exchange(b"".join(picked)))


LINES = [target_of(), target_of(version="strange"), target_of(version="v9")]
MANNERS: list[list[tuple[str, str]]] = [
    [],
    [("If-None-Match", TAG)],
    [("X-Correlation-ID", "one")],
    [("x-correlation-id", "two"), ("If-None-Match", TAG)],
    [("Accept", "*/*"), ("X-Correlation-ID", "three")],
    [("X-CORRELATION-ID", "four")],
    [("Accept", "a\r\nX-Correlation-ID: five"), ("X-Correlation-ID", "five")],
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    picked=st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(MANNERS)), min_size=2, max_size=12),
)
def test_lines_and_headers_that_came_apart_are_answered_alike(
    twins: Twins, picked: list[tuple[str, list[tuple[str, str]]]]
) -> None:
    """They are remembered apart, and what follows the line is compared with the request before."""
    fast, documented = twins.answers(*(a_request(line, *headers) for line, headers in picked))
    assert fast == documented


def test_a_line_that_came_before_is_not_answered_until_its_head_is_whole(twins: Twins) -> None:
    request = a_request(LINES[0])
    twins.lane.exchange(request)
    cut = request.index(b" HTTP/1.1")
    for at in (cut, cut + 9, cut + 11):
        fast, documented = twins.answers(request[:at], request[at:])
        assert fast == documented


def test_a_line_and_headers_that_came_apart_are_not_parsed_again(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins.lane.exchange(a_request(LINES[0], *MANNERS[1]), a_request(LINES[1]))
    monkeypatch.setattr(LaneConnection, "on_message_begin", None)
    again = twins.lane.exchange(a_request(LINES[1], *MANNERS[1]), a_request(LINES[0]))
    assert again.count(b"HTTP/1.1 ") == 2


def test_a_head_that_came_before_is_not_parsed_again(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the comparison above would compare nothing new."""
    twins.lane.exchange(*PLAIN[:3])
    begun: list[str] = []
    monkeypatch.setattr(LaneConnection, "on_message_begin", lambda self: begun.append("parsed"))
    assert comparable(twins.lane.exchange(*PLAIN[:3])).count(b"HTTP/1.1 ") == 3
    assert begun == []


def test_a_head_with_another_correlation_id_is_answered_with_that_one(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins.lane.exchange(a_request(target_of(), ("X-Correlation-ID", "first"), ("Accept", "*/*")))
    monkeypatch.setattr(LaneConnection, "on_message_begin", None)
    answer = twins.lane.exchange(a_request(target_of(), ("X-Correlation-ID", "second"), ("Accept", "*/*")))
    assert b"x-correlation-id: second\r\n" in answer


@pytest.mark.parametrize("nul", ["\0", "first\0", "\0\0"])
def test_nul_in_the_place_of_an_id_that_came_before_is_refused_alike(twins: Twins, nul: str) -> None:
    """NUL stands there in what is remembered of a head: nobody may show that as a request."""
    twins.lane.exchange(a_request(target_of(), ("X-Correlation-ID", "first")))
    fast, documented = twins.answers(a_request(target_of(), ("X-Correlation-ID", nul)))
    assert fast == documented
    assert fast.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("age_s", [None, 0, 1, 86400])
def test_stale_answers_are_flagged_alike(twins: Twins, age_s: int | None) -> None:
    twins.follower.age_s = age_s
    try:
        fast, documented = twins.answers(b"".join(PLAIN))
    finally:
        twins.follower.age_s = None
    assert fast == documented
    flag = b"" if age_s is None else b"tm-stale: ?1\r\nage: %d\r\n" % age_s
    assert flag in fast
    assert (b"tm-stale" in fast) == (age_s is not None)


def test_every_change_of_the_table_is_seen_at_once(twins: Twins) -> None:
    """Answers and heads are kept as bytes: not one of them may outlive what it says."""
    tables = [
        ({"v2": Entry(URL, 5), "strange": Entry(URL, 6)}, Head(EPOCH, 1, 7)),
        ({"v2": Entry("https://other.example.com", 8), "strange": Entry(URL, 6)}, Head(EPOCH, 1, 8)),
        ({"strange": Entry(URL, 6)}, Head(EPOCH, 1, 9)),
        ({"v2": Entry(URL, 10), "strange": Entry(URL, 6)}, Head(EPOCH, 1, 10)),
        # Another history may give the same revision to another URL.
        ({"v2": Entry("https://third.example.com", 10)}, Head("cd" * 16, 2, 10)),
        ({"v2": Entry(URL, 10)}, Head(EPOCH[:8] + "ef" * 12, 3, 10)),
    ]
    try:
        for entries, head in tables:
            twins.serve(entries, head)
            fast, documented = twins.answers(b"".join(PLAIN))
            assert fast == documented
    finally:
        twins.serve(*tables[0])


def test_each_answer_counts_as_a_use_in_a_bounded_mirror(twins: Twins) -> None:
    """Else the route that all ask for would be the first to go."""
    versions = [f"v{n}" for n in range(twins.mirror.max_routes)]
    try:
        twins.serve({version: Entry(URL, 5) for version in versions}, beyond=1)
        asked = [a_request(target_of(version=version)) for version in (*versions, versions[0])]
        assert twins.lane.exchange(b"".join(asked)).count(b" 200 OK\r\n") == len(asked)
        twins.mirror.recent.put("another", Entry(URL, 6))
        hot, next_to_go = ("/".join(a_key(version=version).values()) for version in versions[:2])
        assert twins.mirror.recent.get(hot) is not None
        assert twins.mirror.recent.get(next_to_go) is None
    finally:
        twins.serve({"v2": Entry(URL, 5), "strange": Entry(URL, 6)})


def test_a_fork_that_keeps_its_epoch_is_seen_at_once(twins: Twins) -> None:
    """As while the database, restored, is still read-only: then one epoch has one revision twice."""
    question = a_request(target_of())
    try:
        for url in ("https://left.example.com", "https://new.example.com"):
            twins.serve({"v2": Entry(url, 8)}, Head(EPOCH, 1, 8), is_fork=True)
            assert url.encode() in twins.lane.exchange(question)
    finally:
        twins.serve({"v2": Entry(URL, 5), "strange": Entry(URL, 6)}, is_fork=True)


def test_what_the_mirror_knows_never_comes_as_far_as_the_application(
    twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the comparisons here would compare the route with itself. Nor is a scope made for it."""
    monkeypatch.setattr(LaneConnection, "_begin_scope", None)
    assert twins.lane.exchange(b"".join(PLAIN)).count(b"HTTP/1.1 ") == len(PLAIN)


TELLING = [
    a_request(target_of(), ("X-Correlation-ID", "a b")),
    a_request(target_of(), ("TM-Min-Revision", "x")),
    a_request(target_of(version="a..b")),
    a_request(target_of(), ("If-None-Match", TAG), ("If-None-Match", "x")),
]
MISTAKES = {
    "takes any correlation id": (api_lane, "accepted_id", lambda given: given[0] if given else None),
    "overlooks what headers ask for": (api_lane, "_ASKS_FOR_MORE", frozenset[bytes]()),
    "keeps an answer for ever": (Found, "is_of", lambda *_: True),
    "finds every tag": (rendered, "matches", lambda *_: True),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_lane_would_be_seen(
    twins: Twins, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*MISTAKES[mistake])
    tables = [{"v2": Entry(URL, 5)}, {"v2": Entry("https://other.example.com", 8)}]
    try:
        pairs = []
        for entries in tables:
            twins.serve(entries)
            pairs += [twins.answers(request) for request in [*PLAIN, *TELLING]]
    finally:
        twins.serve({"v2": Entry(URL, 5), "strange": Entry(URL, 6)}, Head(EPOCH, 1, 7))
    assert [fast for fast, documented in pairs if fast != documented]


def test_requests_are_counted_alike(twins: Twins) -> None:
    """Counts, not durations: those differ, and that is what the lane is for."""
    before = _counts(twins)
    twins.answers(b"".join(PLAIN))
    after = _counts(twins)
    grown = [
        {name: value - old.get(name, 0.0) for name, value in new.items() if value != old.get(name, 0.0)}
        for old, new in zip(before, after, strict=True)
    ]
    assert grown[0] == grown[1]
    assert grown[0]["resolve_requests_total"] == len(PLAIN)


def _counts(twins: Twins) -> list[dict[str, float]]:
    """Return the counters of both that requests move."""
    found = []
    for twin in (twins.lane, twins.documented):
        lines = twin.parts.metrics.render().decode().splitlines()
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        wanted = ("resolve_", "api_request", "tm_resolve")
        found.append(
            {
                name: float(value)
                for name, _, value in samples
                if name.startswith(wanted) and "_bucket" not in name and "_sum" not in name
            }
        )
    return found


def test_a_real_server_answers_in_the_lane_as_around_it(sqlite_api: httpx2.Client) -> None:
    """`Cache-Control` keeps a request out of the lane; this one asks for nothing else."""
    for key in (created(sqlite_api), deactivated(sqlite_api)):
        asked = {"params": key, "headers": {"X-Correlation-ID": "same"}}
        around = {"params": key, "headers": {"X-Correlation-ID": "same", "Cache-Control": "max-age=60"}}
        fast = sqlite_api.get(f"{ROUTES}/resolve", **asked)  # type: ignore[arg-type] # as it takes them
        documented = sqlite_api.get(f"{ROUTES}/resolve", **around)  # type: ignore[arg-type] # the same
        assert (fast.status_code, fast.content) == (documented.status_code, documented.content)
        assert {**fast.headers, "date": ""} == {**documented.headers, "date": ""}
