"""Keys in memory: who is let in, who is not, and that guessing teaches nothing."""

from __future__ import annotations

import hmac
import statistics
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

import pytest

from tests.access.builders import FAR_FUTURE, PEPPER, a_grant, stored
from traffic_manager.access import admitted as admitted_module
from traffic_manager.access import keyring as keyring_module
from traffic_manager.access.admitted import Admitted, mark_of
from traffic_manager.access.credentials import Credential
from traffic_manager.access.keyring import Keyring
from traffic_manager.access.permissions import Principal
from traffic_manager.errors import SourceUnavailable, Unauthenticated

GOOD, REVOKED, EXPIRED, UNKNOWN = (Credential.new() for _ in range(4))
# Whole, with a check that fits, but of another secret.
WRONG_SECRET = Credential(GOOD.key_id, GOOD.signed[:-1] + (b"A" if GOOD.signed[-1:] != b"A" else b"B"))
NOW = 1_800_000_000.0
REFUSED = {"unknown id": UNKNOWN, "wrong secret": WRONG_SECRET, "revoked": REVOKED, "expired": EXPIRED}


def written(credential: Credential) -> bytes:
    return str(credential).encode()


@pytest.fixture
def keyring() -> Keyring:
    """A keyring that once knew REVOKED."""
    keyring = Keyring(PEPPER, Admitted(lambda: NOW))
    in_force = [stored(GOOD, "viewer:team-a/prod"), stored(EXPIRED, expires_at=int(NOW * 1e6) - 1)]
    keyring.load([*in_force, stored(REVOKED)])
    keyring.principal_of(written(REVOKED))
    keyring.load(in_force)
    return keyring


def test_good_key_names_its_principal(keyring: Keyring) -> None:
    for _ in range(2):  # checked, then remembered
        principal = keyring.principal_of(written(GOOD))
        assert (principal.name, principal.key_id) == (f"alice/{GOOD.key_id}", GOOD.key_id)
        assert principal.grants == (a_grant("viewer:team-a/prod"),)


@pytest.mark.parametrize("credential", REFUSED.values(), ids=REFUSED)
def test_every_other_key_is_refused_alike(keyring: Keyring, credential: Credential) -> None:
    with pytest.raises(Unauthenticated, match=r"^a valid credential is needed$"):
        keyring.principal_of(written(credential))


def test_key_is_not_judged_before_the_keys_are_known() -> None:
    with pytest.raises(SourceUnavailable):
        Keyring(PEPPER).principal_of(written(GOOD))


def test_key_ends_when_its_time_is_over_though_it_was_just_used() -> None:
    now = NOW
    keyring = Keyring(PEPPER, Admitted(lambda: now))
    keyring.load([stored(GOOD, expires_at=int((NOW + 1) * 1e6))])
    principal = keyring.principal_of(written(GOOD))
    assert keyring.knows(principal)
    now = NOW + 1
    assert not keyring.knows(principal)
    with pytest.raises(Unauthenticated):
        keyring.principal_of(written(GOOD))


def test_revocation_ends_a_key_that_was_just_used(keyring: Keyring) -> None:
    principal = keyring.principal_of(written(GOOD))
    keyring.load([])
    assert not keyring.knows(principal)
    with pytest.raises(Unauthenticated):
        keyring.principal_of(written(GOOD))


def test_changes_of_other_keys_leave_those_alone_who_were_let_in(keyring: Keyring) -> None:
    keyring.principal_of(written(GOOD))
    other = stored(UNKNOWN, "viewer:team-b/prod")
    kept = stored(GOOD, "viewer:team-a/prod")
    for keys in ([kept, other], [kept, replace(other, expires_at=1)], [kept]):
        keyring.load(keys)
        assert keyring.admitted.permits_resolve(mark_of(written(GOOD)), "team-a", "prod")
    keyring.load([replace(kept, grants="[]")])
    assert not keyring.admitted.permits_resolve(mark_of(written(GOOD)), "team-a", "prod")


def test_digest_of_another_row_lets_nobody_in() -> None:
    keyring = Keyring(PEPPER)
    swapped = stored(UNKNOWN)
    keyring.load([swapped.__class__(GOOD.key_id, "alice", swapped.digest, "[]", FAR_FUTURE)])
    for credential in (GOOD, UNKNOWN):
        with pytest.raises(Unauthenticated):
            keyring.principal_of(written(credential))


def test_role_that_this_version_does_not_know_grants_nothing() -> None:
    keyring = Keyring(PEPPER)
    row = stored(GOOD)
    grants = '[["emperor","*","*"],["viewer","team-a","*"]]'
    keyring.load([row.__class__(row.id, row.owner, row.digest, grants, row.expires_at)])
    assert keyring.principal_of(written(GOOD)).grants == (a_grant("viewer:team-a/*"),)


def test_memory_for_keys_that_were_shown_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admitted_module, "MAX_REMEMBERED", 3)
    keys = [Credential.new() for _ in range(10)]
    keyring = Keyring(PEPPER)
    keyring.load([stored(key) for key in keys])
    for key in [*keys, *keys]:
        assert keyring.principal_of(written(key)).key_id == key.key_id
    assert len(keyring.admitted) <= 3


def test_loading_makes_no_principals(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on the event loop: 10,000 principals would take half a second of it."""
    keyring = Keyring(PEPPER)
    made: list[str] = []
    monkeypatch.setattr(keyring_module, "Principal", _noted(made, "principal", Principal))
    keyring.load([stored(key, "viewer:*/*") for key in (GOOD, UNKNOWN)])
    assert not made
    keyring.principal_of(written(GOOD))
    assert made == ["principal"]


def test_principal_of_other_grants_is_not_known_any_more(keyring: Keyring) -> None:
    principal = keyring.principal_of(written(GOOD))
    keyring.load([stored(GOOD, "viewer:team-b/prod")])
    assert not keyring.knows(principal)


def test_credentials_that_were_refused_take_no_memory(keyring: Keyring) -> None:
    for _ in range(100):
        with pytest.raises(Unauthenticated):
            keyring.principal_of(written(Credential.new()))
    assert len(keyring.admitted) == 0


@pytest.mark.parametrize("credential", REFUSED.values(), ids=REFUSED)
def test_every_refusal_takes_one_keyed_hash_and_one_comparison(
    keyring: Keyring, credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(hmac, "digest", _noted(calls, "hash", hmac.digest))
    monkeypatch.setattr(hmac, "compare_digest", _noted(calls, "compare", hmac.compare_digest))
    with pytest.raises(Unauthenticated):
        keyring.principal_of(written(credential))
    assert calls == ["hash", "compare"]


def test_refusals_cannot_be_told_apart_by_their_time(keyring: Keyring) -> None:
    alike = {name: credential for name, credential in REFUSED.items() if name != "expired"}
    seconds: dict[str, list[float]] = {name: [] for name in alike}
    for _ in range(3000):
        for name, credential in alike.items():
            began = perf_counter()
            with pytest.raises(Unauthenticated):
                keyring.principal_of(written(credential))
            seconds[name].append(perf_counter() - began)
    medians = [statistics.median(times) for times in seconds.values()]
    assert max(medians) - min(medians) < 50e-6


def _noted(calls: list[str], name: str, work: Callable[..., object]) -> Callable[..., object]:
    def noted(*arguments: object, **named: object) -> object:
        calls.append(name)
        return work(*arguments, **named)

    return noted
