"""API keys in the database, and what the log and the feed say of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.access.builders import PEPPER, a_grant, a_principal
from tests.db.engines import SqlEngine
from tests.routing.builders import AUTHOR, a_key, commit, create
from traffic_manager.access.credentials import Credential
from traffic_manager.access.key_registry import DEFAULT_LIFETIME, DEFAULT_OVERLAP, Issued, KeyRegistry
from traffic_manager.access.keyring import Keyring
from traffic_manager.access.permissions import Principal
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.errors import (
    Forbidden,
    IdempotencyKeyReused,
    KeyIssuedBefore,
    KeyNotFound,
    KeysUnavailable,
    Unauthenticated,
)
from traffic_manager.routing.ports import NameFilter

ADMIN = a_principal("admin:*/*")
OF_TEAM_A = a_principal("admin:team-a/*", "viewer:*/*")


class Keys:
    """The registry over an engine, and a keyring that follows it."""

    def __init__(self, engine: SqlEngine) -> None:
        self.engine = engine
        self.committed: list[int] = []
        self.registry = KeyRegistry(SqlKeyStore(engine.database), PEPPER, self.committed.append)

    def create(self, *grants: str, owner: str = "alice", caller: Principal = ADMIN) -> Issued:
        wanted = [a_grant(grant) for grant in grants or ("viewer:team-a/prod",)]
        return self.registry.create(caller, AUTHOR, owner, wanted, DEFAULT_LIFETIME)

    def keyring(self) -> Keyring:
        keyring = Keyring(PEPPER)
        with closing(self.engine.feed()) as feed:
            keyring.load(feed.keys())
        return keyring

    def lets_in(self, secret: Credential) -> bool:
        try:
            return bool(self.keyring().principal_of(str(secret).encode()))
        except Unauthenticated:
            return False


@pytest.fixture
def keys(sql_engine: SqlEngine) -> Iterator[Keys]:
    yield Keys(sql_engine)
    sql_engine.run("delete from api_keys")
    sql_engine.run("delete from receipts")


def test_new_key_lets_its_owner_in_with_its_grants(keys: Keys) -> None:
    issued = keys.create("editor:team-a/prod", "viewer:*/*")
    principal = keys.keyring().principal_of(str(issued.secret).encode())
    assert principal.name == f"alice/{issued.key.id}"
    assert principal.grants == (a_grant("editor:team-a/prod"), a_grant("viewer:*/*"))
    assert issued.key.expires_at - issued.key.created_at == 365 * 86_400 * 1_000_000
    assert keys.committed == [issued.head.revision] == [1]


def test_database_holds_neither_secret_nor_whole_key(keys: Keys) -> None:
    issued = keys.create()
    row = str(keys.engine.rows("select * from api_keys") + keys.engine.rows("select * from changes"))
    _, _, secret, check = str(issued.secret).split("_")
    assert issued.key.id in row
    assert secret not in row
    assert check not in row


def test_log_says_what_became_of_a_key_and_holds_no_digest(keys: Keys) -> None:
    issued = keys.create()
    keys.registry.revoke(ADMIN, AUTHOR, issued.key.id)
    rows = keys.engine.rows("select kind, action, is_active, actor, detail from changes order by revision")
    assert [row[:2] for row in rows] == [("key", "created"), ("key", "revoked")]
    assert [bool(row[2]) for row in rows] == [True, False]
    state = json.loads(rows[0][4])
    assert state == {
        "key": issued.key.id,
        "owner": "alice",
        "grants": [["viewer", "team-a", "prod"]],
        "expires_at": issued.key.expires_at,
        "revoked_at": None,
    }
    [(digest,)] = keys.engine.rows("select digest from api_keys")
    everything = str(keys.engine.rows("select * from changes"))
    assert bytes(digest).hex() not in everything
    assert str(bytes(digest)) not in everything


def test_chain_goes_on_over_changes_of_keys(keys: Keys) -> None:
    commit(keys.engine.store, create())
    keys.create()
    commit(keys.engine.store, create(a_key("after")))
    columns = """revision, batch_end, kind, tenant, service, env, version, action, url, is_active, previous, actor,
        reason, correlation_id, occurred_at"""
    rows = keys.engine.rows(f"select {columns}, detail, chain from changes order by revision")  # noqa: S608 constant
    previous = bytes(32)
    for *found, detail, chain in rows:
        found[9] = bool(found[9])  # SQLite knows no booleans
        document = json.dumps(
            [*found, detail] if detail else found, ensure_ascii=False, separators=(",", ":")
        )
        previous = hashlib.sha256(previous + document.encode()).digest()
        assert previous == bytes(chain)
    assert len(rows) == 3


def test_feed_tells_that_keys_changed_and_readers_of_routes_see_nothing_of_it(keys: Keys) -> None:
    commit(keys.engine.store, create())
    keys.create()
    feed = keys.engine.feed()
    whole, routes_only = feed.slice(0, 100), feed.slice(0, 1)
    assert whole is not None
    assert routes_only is not None
    assert (whole.upto, len(whole.changes), whole.has_keys) == (2, 1, True)
    assert (routes_only.upto, routes_only.has_keys) == (1, False)
    page = keys.engine.store.changes(NameFilter(), 0, 100)
    assert (page.head.revision, len(page.changes)) == (2, 1)


def test_revoked_key_lets_nobody_in_and_stays_in_the_list(keys: Keys) -> None:
    issued = keys.create()
    revoked = keys.registry.revoke(ADMIN, AUTHOR, issued.key.id)
    assert revoked.head.revision == 2
    assert revoked.key.revoked_at is not None
    assert not keys.lets_in(issued.secret)
    _, listed = keys.registry.keys(ADMIN)
    assert listed == [revoked.key]


def test_revoking_twice_changes_nothing_the_second_time(keys: Keys) -> None:
    issued = keys.create()
    first = keys.registry.revoke(ADMIN, AUTHOR, issued.key.id)
    assert keys.registry.revoke(ADMIN, AUTHOR, issued.key.id) == first


def test_rotation_leaves_both_keys_in_force_until_the_old_one_ends(keys: Keys) -> None:
    old = keys.create("editor:team-a/prod")
    new = keys.registry.rotate(ADMIN, AUTHOR, old.key.id, DEFAULT_OVERLAP, DEFAULT_LIFETIME)
    assert (new.key.owner, new.key.grants) == (old.key.owner, old.key.grants)
    assert keys.lets_in(old.secret)
    assert keys.lets_in(new.secret)
    _, listed = keys.registry.keys(ADMIN)
    ends = {key.id: key.expires_at for key in listed}
    assert ends[old.key.id] == new.key.created_at + 86_400 * 1_000_000
    rows = keys.engine.rows("select batch_end, action from changes where revision > 1 order by revision")
    assert rows == [(3, "created"), (3, "shortened")]
    assert new.head.revision == 3


def test_rotation_without_overlap_ends_the_old_key_at_once(keys: Keys) -> None:
    old = keys.create()
    new = keys.registry.rotate(ADMIN, AUTHOR, old.key.id, timedelta(0), DEFAULT_LIFETIME)
    assert not keys.lets_in(old.secret)
    assert keys.lets_in(new.secret)


def test_key_that_is_no_longer_in_force_cannot_be_rotated_back(keys: Keys) -> None:
    revoked = keys.create()
    keys.registry.revoke(ADMIN, AUTHOR, revoked.key.id)
    with pytest.raises(KeyNotFound):
        keys.registry.rotate(ADMIN, AUTHOR, revoked.key.id, DEFAULT_OVERLAP, DEFAULT_LIFETIME)


@pytest.mark.parametrize(
    "grants",
    [
        ("viewer:team-b/prod",),
        ("viewer:*/*",),
        ("viewer:*/prod",),
        ("viewer:team-a/prod", "viewer:team-b/prod"),
        ("admin:*/*",),
    ],
)
def test_nobody_gives_away_more_than_they_administer(keys: Keys, grants: tuple[str, ...]) -> None:
    with pytest.raises(Forbidden):
        keys.create(*grants, caller=OF_TEAM_A)
    assert keys.engine.rows("select count(*) from api_keys") == [(0,)]


def test_administrator_of_a_tenant_may_make_others(keys: Keys) -> None:
    issued = keys.create("admin:team-a/*", "editor:team-a/prod", caller=OF_TEAM_A)
    assert keys.lets_in(issued.secret)


def test_keys_of_others_are_neither_listed_nor_touched(keys: Keys) -> None:
    own, foreign = keys.create("viewer:team-a/prod"), keys.create("viewer:team-b/prod")
    wide = keys.create("viewer:team-a/prod", "viewer:team-b/prod")
    _, listed = keys.registry.keys(OF_TEAM_A)
    assert listed == [own.key]
    for key_id in (foreign.key.id, wide.key.id, "nosuchkey000"):
        with pytest.raises(KeyNotFound, match=r"^no such key$"):
            keys.registry.revoke(OF_TEAM_A, AUTHOR, key_id)
        with pytest.raises(KeyNotFound, match=r"^no such key$"):
            keys.registry.rotate(OF_TEAM_A, AUTHOR, key_id, DEFAULT_OVERLAP, DEFAULT_LIFETIME)
    assert keys.lets_in(foreign.secret)
    assert keys.lets_in(wide.secret)


@pytest.mark.parametrize(
    "key_id", ["", "a", "a" * 13, "aaaaaaaaaaa\x00", "aaaaaaaaaaa\n", "\u0661" * 12, "' or 1=1 --"]
)
def test_what_can_be_no_id_is_not_found(keys: Keys, key_id: str) -> None:
    with pytest.raises(KeyNotFound):
        keys.registry.revoke(ADMIN, AUTHOR, key_id)
    with pytest.raises(KeyNotFound):
        keys.registry.rotate(ADMIN, AUTHOR, key_id, DEFAULT_OVERLAP, DEFAULT_LIFETIME)


def test_without_a_pepper_no_key_is_made(sql_engine: SqlEngine) -> None:
    registry = KeyRegistry(SqlKeyStore(sql_engine.database), None, lambda _: None)
    with pytest.raises(KeysUnavailable):
        registry.create(ADMIN, AUTHOR, "alice", [a_grant("viewer:*/*")], DEFAULT_LIFETIME)
    assert sql_engine.store.look_up([]).head.revision == 0


ONCE = replace(AUTHOR, idempotency_key="once")
WANTED = [a_grant("viewer:team-a/prod")]


class TestDoneOnce:
    """A request with an idempotency key that comes again, as after a broken connection."""

    def test_one_key_is_made_and_whoever_asks_again_is_told_which(self, keys: Keys) -> None:
        issued = keys.registry.create(ADMIN, ONCE, "alice", WANTED, DEFAULT_LIFETIME)
        with pytest.raises(KeyIssuedBefore) as told:
            keys.registry.create(ADMIN, ONCE, "alice", WANTED, DEFAULT_LIFETIME)
        assert told.value.key_id == issued.key.id
        assert len(keys.registry.keys(ADMIN)[1]) == 1
        assert keys.lets_in(issued.secret)

    def test_rotation_makes_one_key_even_when_the_old_one_has_ended(self, keys: Keys) -> None:
        old = keys.create()
        asked = (ADMIN, ONCE, old.key.id, timedelta(0), DEFAULT_LIFETIME)
        issued = keys.registry.rotate(*asked)
        with pytest.raises(KeyIssuedBefore) as told:
            keys.registry.rotate(*asked)
        assert told.value.key_id == issued.key.id
        assert len(keys.registry.keys(ADMIN)[1]) == 2

    def test_nothing_that_is_kept_of_it_holds_a_secret_or_a_digest(self, keys: Keys) -> None:
        issued = keys.registry.create(ADMIN, ONCE, "alice", WANTED, DEFAULT_LIFETIME)
        ((answer, request),) = keys.engine.rows("select answer, request from receipts")
        assert answer == issued.key.id
        assert bytes(request) != issued.secret.digest(PEPPER)

    def test_revocation_is_answered_as_it_was(self, keys: Keys) -> None:
        issued = keys.create()
        first = keys.registry.revoke(ADMIN, ONCE, issued.key.id)
        keys.create()
        again = keys.registry.revoke(ADMIN, ONCE, issued.key.id)
        assert (again.key, again.head, again.is_replay) == (first.key, first.head, True)

    def test_another_request_by_its_name_is_refused_and_does_nothing(self, keys: Keys) -> None:
        issued = keys.registry.create(ADMIN, ONCE, "alice", WANTED, DEFAULT_LIFETIME)
        with pytest.raises(IdempotencyKeyReused):
            keys.registry.create(ADMIN, ONCE, "bob", WANTED, DEFAULT_LIFETIME)
        with pytest.raises(IdempotencyKeyReused):
            keys.registry.revoke(ADMIN, ONCE, issued.key.id)
        assert keys.lets_in(issued.secret)

    def test_whoever_may_not_is_not_told_which_key_it_made(self, keys: Keys) -> None:
        keys.registry.create(ADMIN, ONCE, "alice", WANTED, DEFAULT_LIFETIME)
        with pytest.raises(Forbidden):
            keys.registry.create(a_principal("admin:team-b/*"), ONCE, "alice", WANTED, DEFAULT_LIFETIME)
