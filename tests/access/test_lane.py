"""With keys the lane lets nobody in, and tells nobody anything, that the documented route would not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.access.builders import PEPPER, a_grant, stored
from tests.api.twins import Twins, the_twins
from traffic_manager.access.client_names import ClientCertificate, ClientNames
from traffic_manager.access.credentials import Credential
from traffic_manager.access.keyring import Keyring
from traffic_manager.api.access import Gate
from traffic_manager.api.lane import Lane

OWN, FOREIGN, NOTHING, EXPIRED, UNKNOWN = (Credential.new() for _ in range(5))
TEXTS = [
    *(str(key) for key in (OWN, OWN, OWN, FOREIGN, NOTHING, EXPIRED, UNKNOWN)),
    "",
    "tmk_",
    str(OWN)[:-1],
]
IN_FORCE = [
    stored(OWN, "resolver:team-a/prod"),
    stored(FOREIGN, "admin:team-b/*"),
    stored(NOTHING),
    stored(EXPIRED, "admin:*/*", expires_at=1),
]
NAMES = {"DNS:ci": (a_grant("resolver:team-a/prod"),), "DNS:other": (a_grant("admin:team-b/*"),)}
CI, OTHER, STRANGER, ENDED = (
    ClientCertificate((f"DNS:{name}",), expires_at, mark)
    for name, expires_at, mark in [
        ("ci", 4e9, b"ci"),
        ("other", 4e9, b"other"),
        ("stranger", 4e9, b"stranger"),
        ("ci", 1.0, b"ended"),
    ]
)
TARGET = "/api/v1/routes/resolve?tenant={}&service=payments&env={}&version={}"


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    """The keys of both twins."""
    keyring = Keyring(PEPPER)
    keyring.load(IN_FORCE)
    return keyring


@pytest.fixture(scope="module")
def known_names(keyring: Keyring) -> ClientNames:
    """The names in certificates that both twins know."""
    names = ClientNames(keyring.admitted)
    names.load(NAMES)
    return names


@pytest.fixture(scope="module")
def shared_twins(keyring: Keyring, known_names: ClientNames) -> Iterator[Twins]:
    """Both, asking for keys or certificates."""
    with the_twins(Gate(keyring, known_names)) as twins:
        yield twins


@pytest.fixture
def twins(shared_twins: Twins) -> Twins:
    """Both; their clients show no certificate until they are told to."""
    shared_twins.show(None)
    return shared_twins


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys that the lane has answered itself."""
    return _noted(monkeypatch)


def _noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    answer = Lane.answer

    def noted(lane: Lane, asked, *more):  # type: ignore[no-untyped-def] # passed on
        found.append(asked.key)
        return answer(lane, asked, *more)

    monkeypatch.setattr(Lane, "answer", noted)
    return found


def a_request(*headers: str, tenant: str = "team-a", env: str = "prod", version: str = "v2") -> bytes:
    lines = [f"GET {TARGET.format(tenant, env, version)} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join([*lines, "X-Correlation-ID: same", "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_lane_answers_whoever_was_admitted_before(twins: Twins, answered: list[str]) -> None:
    shows = f"Authorization: Bearer {OWN}"
    for _ in range(3):
        assert status_of(twins.lane.exchange(a_request(shows))) == 200
    assert len(answered) >= 2


@pytest.mark.parametrize(
    ("headers", "names", "status"),
    [
        ([], {}, 401),
        ([f"Authorization: Bearer {UNKNOWN}"], {}, 401),
        ([f"Authorization: Bearer {EXPIRED}"], {}, 401),
        ([f"Authorization: Basic {OWN}"], {}, 401),
        ([f"Authorization: Bearer {OWN}", f"X-API-Key: {OWN}"], {}, 401),
        ([f"X-API-Key: {OWN}", f"X-API-Key: {OWN}"], {}, 401),
        ([f"X-API-Key: {NOTHING}"], {}, 403),
        ([f"X-API-Key: {FOREIGN}"], {}, 403),
        ([f"X-API-Key: {FOREIGN}"], {"version": "missing"}, 403),
        ([f"X-API-Key: {OWN}"], {"tenant": "team-b"}, 403),
        ([f"X-API-Key: {OWN}"], {"env": "test"}, 403),
        ([f"X-API-Key: {OWN}"], {"version": "missing"}, 404),
    ],
)
def test_lane_refuses_again_and_again(
    twins: Twins, headers: list[str], names: dict[str, str], status: int
) -> None:
    # The good one first: what is remembered of it must help nobody else.
    twins.lane.exchange(a_request(f"X-API-Key: {OWN}"), a_request(f"X-API-Key: {OWN}"))
    answers = {twins.lane.exchange(a_request(*headers, **names))[:12] for _ in range(3)}
    assert answers == {f"HTTP/1.1 {status}".encode()}


def test_revocation_reaches_a_head_that_was_just_answered(
    twins: Twins, keyring: Keyring, answered: list[str]
) -> None:
    request = a_request(f"X-API-Key: {OWN}", "Accept: */*")
    try:
        assert [status_of(twins.lane.exchange(request)) for _ in range(3)] == [200] * 3
        count = len(answered)
        assert count
        keyring.load([key for key in IN_FORCE if key.id != OWN.key_id])
        assert status_of(twins.lane.exchange(request)) == 401
        assert len(answered) == count
    finally:
        keyring.load(IN_FORCE)


def test_lane_answers_whoever_s_certificate_was_admitted_before(twins: Twins, answered: list[str]) -> None:
    twins.show(CI)
    for _ in range(3):
        assert status_of(twins.lane.exchange(a_request())) == 200
    assert len(answered) >= 2


@pytest.mark.parametrize(
    ("certificate", "status"), [(None, 401), (STRANGER, 401), (ENDED, 401), (OTHER, 403)]
)
def test_certificate_of_one_connection_answers_no_other(
    twins: Twins, certificate: ClientCertificate | None, status: int
) -> None:
    """The lane knows a head again, and the certificate is not in it."""
    twins.show(CI)
    assert [status_of(twins.lane.exchange(a_request())) for _ in range(2)] == [200, 200]
    twins.show(certificate)
    assert [status_of(twins.lane.exchange(a_request())) for _ in range(3)] == [status] * 3


def test_name_without_its_grants_ends_in_the_lane(twins: Twins, known_names: ClientNames) -> None:
    twins.show(CI)
    try:
        assert [status_of(twins.lane.exchange(a_request())) for _ in range(2)] == [200, 200]
        known_names.load({})
        assert status_of(twins.lane.exchange(a_request())) == 401
    finally:
        known_names.load(NAMES)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draw a resolve with credentials good and bad."""
    lines = [
        draw(
            st.sampled_from(
                ["Authorization: Bearer ", "authorization:bearer ", "X-API-Key: ", "X-Api-Key:  "]
            )
        )
        + draw(st.sampled_from(TEXTS))
        for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 1, 2])))
    ]
    return a_request(
        *lines,
        tenant=draw(st.sampled_from(["team-a", "team-a", "team-b"])),
        env=draw(st.sampled_from(["prod", "prod", "test"])),
        version=draw(st.sampled_from(["v2", "strange", "missing"])),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stream=st.lists(requests(), min_size=1, max_size=5),
    certificate=st.sampled_from([None, None, CI, OTHER, STRANGER, ENDED]),
)
def test_any_requests_are_answered_alike(
    twins: Twins, stream: list[bytes], certificate: ClientCertificate | None
) -> None:
    twins.show(certificate)
    fast, documented = twins.answers(*stream)
    assert fast == documented


def test_no_secret_is_kept_with_the_heads(keyring: Keyring) -> None:
    kept: list[bytes] = []
    lane = Lane.__new__(Lane)
    lane._gate = Gate(keyring)
    headers = a_request(f"X-API-Key: {OWN}").partition(b" HTTP/1.1")[2]
    kept.append(lane._kept_as(headers))
    assert str(OWN).encode() not in b"".join(kept)
    assert kept == [lane._kept_as(headers)]


def test_same_headers_after_a_revocation_open_no_other_route(twins: Twins, keyring: Keyring) -> None:
    """On one connection what follows the line is only compared with the request before."""
    shows = f"X-API-Key: {OWN}"
    first, second = a_request(shows), a_request(shows, version="strange")
    try:
        with twins.lane.connect() as connection:
            for request in (first, second, first):
                assert _asked_on(connection, request) == 200
            keyring.load([key for key in IN_FORCE if key.id != OWN.key_id])
            assert [_asked_on(connection, request) for request in (first, second)] == [401, 401]
    finally:
        keyring.load(IN_FORCE)


def _asked_on(connection: socket.socket, request: bytes) -> int:
    connection.sendall(request)
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status
