"""`verify` finds what does not agree with the log, says where, and finds nothing in a sound database."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.access.builders import PEPPER, a_grant, a_principal
from tests.db.engines import SqlEngine
from tests.routing.builders import AUTHOR, a_key, commit, commit_batches, create, deactivate, delete, put
from traffic_manager.access.key_registry import DEFAULT_LIFETIME, KeyRegistry
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.retention import compact
from traffic_manager.db.verification import verify


def a_history(engine: SqlEngine) -> None:
    """Make six changes: payments is created and deactivated, two others made together, one deleted again."""
    commit(engine.store, create(), deactivate())
    commit_batches(engine.store, [create(a_key("s1")), create(a_key("s2"))], [delete(a_key("s1"))])
    commit(engine.store, put(a_key("s2"), "https://other.example.com/"))


def make_key(engine: SqlEngine) -> None:
    """Make a change of another kind, with the version of the chain that it has."""
    registry = KeyRegistry(SqlKeyStore(engine.database), PEPPER, lambda _: None)
    grants = [a_grant("viewer:team-a/prod")]
    registry.create(a_principal("admin:*/*"), AUTHOR, "alice", grants, DEFAULT_LIFETIME)


def test_a_sound_database_has_no_findings(sql_engine: SqlEngine) -> None:
    a_history(sql_engine)
    make_key(sql_engine)
    told = verify(sql_engine.database)
    assert (told.findings, told.changes, len(told.table), told.head.revision) == ([], 7, 2, 7)


def test_an_empty_database_has_no_findings(sql_engine: SqlEngine) -> None:
    assert verify(sql_engine.database).findings == []


def test_a_compacted_database_has_no_findings(sql_engine: SqlEngine) -> None:
    a_history(sql_engine)
    compact(sql_engine.database, 2**60, kept=2)
    told = verify(sql_engine.database)
    assert (told.findings, told.changes) == ([], 2)


_DAMAGES: dict[str, tuple[str, str]] = {
    "an edited change": (
        "update changes set actor = 'mallory' where revision = 3",
        "revision 3: its digest does not follow",
    ),
    "an address that was written in later": (
        "update changes set address = '192.0.2.1' where revision = 3",
        "revision 3: its digest does not follow",
    ),
    "an empty one": (
        "update changes set address = '' where revision = 3",
        "revision 3: its digest does not follow",
    ),
    "a version of the chain that there is not": (
        "update changes set chain_version = 9 where revision = 3",
        "revision 3: its digest does not follow",
    ),
    "an edited digest": (
        "update changes set chain = (select chain from changes where revision = 1) where revision = 4",
        "revision 4: its digest does not follow",
    ),
    "a deleted change": ("delete from changes where revision = 2", "revisions 2 to 2 are missing"),
    "a log without its beginning": (
        "delete from changes where revision < 4",
        "revisions 1 to 3 are missing",
    ),
    "an edited url": (
        "update routes set url = 'https://evil.example.com/' where service = 'payments'",
        "route team-a/payments/prod/v2: is https://evil.example.com/ (inactive, revision 2); its last change left",
    ),
    "an activated route": (
        "update routes set is_active = true where service = 'payments'",
        "route team-a/payments/prod/v2: is",
    ),
    "a deleted route": (
        "delete from routes where service = 'payments'",
        "route team-a/payments/prod/v2: is missing",
    ),
    "a renamed route": (
        "update routes set service = 'forged' where service = 'payments'",
        "route team-a/forged/prod/v2: no change in the log made it",
    ),
    "a route that was deleted": (
        """insert into routes select tenant, 's1', env, version, url, is_active, revision, created_at, updated_at
        from routes where service = 's2'""",
        "route team-a/s1/prod/v2: is there as",
    ),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damage_is_found_and_named(sql_engine: SqlEngine, damage: str) -> None:
    a_history(sql_engine)
    statement, expected = _DAMAGES[damage]
    sql_engine.run(statement)
    findings = verify(sql_engine.database).findings
    assert any(finding.startswith(expected) for finding in findings), findings


def test_changes_made_meanwhile_are_no_difference(sql_engine: SqlEngine) -> None:
    for first in range(0, 6000, 1000):
        commit_batches(sql_engine.store, [create(a_key(f"s{first + i}")) for i in range(1000)])
    told = verify(sql_engine.database, _once(lambda: commit(sql_engine.store, delete(a_key("s1")))))
    assert (told.findings, told.changes) == ([], 6000)


def _once(work: Callable[[], object]) -> Callable[[int], None]:
    """Return a listener to progress that does *work* when it first hears of some."""
    left = [work]

    def heard(_changes: int) -> None:
        if left:
            left.pop()()

    return heard


_EDITS = {
    "tenant": "'other'",
    "service": "'other'",
    "env": "'other'",
    "version": "'other'",
    "action": "'activated'",
    "url": "'https://evil.example.com/'",
    "is_active": "not is_active",
    "previous": "'{}'",
    "actor": "'mallory'",
    "reason": "'none'",
    "correlation_id": "'other'",
    "occurred_at": "occurred_at + 1",
    "batch_end": "batch_end + 1",
}


def test_every_one_of_a_hundred_edits_is_found_where_it_is(sql_engine: SqlEngine) -> None:
    for number in range(40):
        commit(sql_engine.store, put(a_key(f"s{number % 7}"), f"https://{number}.example.com/"))
    chosen = random.Random(74)
    for _ in range(100):
        revision, (column, value) = chosen.randrange(1, 41), chosen.choice(list(_EDITS.items()))
        before = sql_engine.rows(f"select {column} from changes where revision = :at", at=revision)[0][0]  # noqa: S608
        sql_engine.run(f"update changes set {column} = {value} where revision = :at", at=revision)  # noqa: S608
        found = [
            finding for finding in verify(sql_engine.database).findings if finding.startswith("revision")
        ]
        assert found == [
            f"revision {revision}: its digest does not follow from it and the digest before it"
        ], column
        sql_engine.run(f"update changes set {column} = :old where revision = :at", old=before, at=revision)  # noqa: S608
    assert verify(sql_engine.database).findings == []


def test_changes_that_were_exchanged_are_found(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, *[create(a_key(name)) for name in "abcd"])
    for old, new in ((2, 9), (3, 2), (9, 3)):
        sql_engine.run("update changes set revision = :new where revision = :old", old=old, new=new)
    assert verify(sql_engine.database).findings[0].startswith("revision 2: its digest does not follow")


def test_log_that_was_cut_off_or_written_anew_is_found_by_a_digest_of_before(sql_engine: SqlEngine) -> None:
    commit(sql_engine.store, create(a_key("a")), create(a_key("b")), create(a_key("c")))
    known = {3: verify(sql_engine.database).chain}
    assert verify(sql_engine.database, known=known).findings == []
    for table in ("routes", "changes"):
        sql_engine.run(f"delete from {table} where revision = 3")  # noqa: S608 constants
    assert verify(sql_engine.database, known=known).findings == [
        "revision 3 was there before, and the log ends at 2"
    ]
    commit(sql_engine.store, create(a_key("d")), create(a_key("e")))
    (finding,) = verify(sql_engine.database, known=known).findings
    assert finding.startswith("revision 3: its digest is ")
