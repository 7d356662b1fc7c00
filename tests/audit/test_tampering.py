"""A hundred ways to tamper with the log, drawn: `audit verify` finds each, and says where."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.access.builders import PEPPER, a_grant, a_principal
from tests.audit.keys import a_pair
from tests.db.engines import SqlEngine, sqlite_settings
from tests.routing.builders import AUTHOR, a_key, activate, create, deactivate, delete, put
from traffic_manager.access.key_registry import DEFAULT_LIFETIME, KeyRegistry
from traffic_manager.audit.heads import SigningKey, read
from traffic_manager.cli import audit
from traffic_manager.cli.head_signing import HeadSigner
from traffic_manager.cli.server import _new_epoch
from traffic_manager.config.loading import load_settings
from traffic_manager.db.key_store import SqlKeyStore
from traffic_manager.db.log_lines import log_lines
from traffic_manager.db.migrate import migrate
from traffic_manager.routing.chain import covered, link
from traffic_manager.routing.operations import Author, Operation, Overlay

CHANGES = 40
SIGNED = (7, 15, 24, 33, CHANGES)
TAMPERINGS = 100


def _commit(engine: SqlEngine, number: int, operation: Operation) -> None:
    author = Author(f"ci/{number}", f"c-{number}", address=f"192.0.2.{number}", reason=f"because {number}")
    with engine.store.writing([operation.key]) as transaction:
        overlay = Overlay(transaction.head, transaction.now, transaction.routes)
        overlay.apply([operation], author, is_batch=False)
        transaction.append(overlay.changes, overlay.after)


def _make(engine: SqlEngine, signer: HeadSigner) -> None:
    """Make all changes, some of API keys, and sign heads meanwhile."""
    registry = KeyRegistry(SqlKeyStore(engine.database), PEPPER, lambda _: None)
    kinds: list[Callable[[int], Operation]] = [
        lambda n: create(a_key(f"s{n}")),
        lambda n: deactivate(a_key(f"s{n - 1}")),
        lambda n: put(a_key(f"s{n - 2}"), f"https://h{n}.example.com/"),
        lambda n: activate(a_key(f"s{n - 3}")),
        lambda n: delete(a_key(f"s{n - 4}")),
    ]
    for number in range(CHANGES):
        if number % 10 == 9:
            grants = [a_grant("viewer:team-a/prod")]
            registry.create(a_principal("admin:*/*"), AUTHOR, "alice", grants, DEFAULT_LIFETIME)
        else:
            _commit(engine, number, kinds[number % 5](number))
        if number + 1 in SIGNED:
            assert signer.sign()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log, `heads.jsonl` and keys."""
    folder = tmp_path_factory.mktemp("evidence")
    settings = sqlite_settings(folder)
    migrate(settings)
    engine = SqlEngine(settings)
    key = SigningKey(a_pair(folder).private, "AUDIT_KEY_FILE")
    with HeadSigner(engine.database, key, folder / "heads.jsonl", lambda _: None) as signer:
        _make(engine, signer)
    engine.close()
    return folder


class Forger:
    """Somebody who may write to every table, and has no key. Each way returns what has to be said of it."""

    def __init__(self, path: Path, seed: int) -> None:
        self._seed = seed
        self._path = path
        self.at = random.Random(seed).randint(2, CHANGES - 1)

    def run(self, statement: str, *values: object) -> None:
        """Change the database."""
        database = sqlite3.connect(self._path)
        with database:
            database.execute(statement, values)
        database.close()

    def chain_anew(self) -> None:
        """Compute all digests again, as this program would."""
        database = sqlite3.connect(self._path)
        digest = bytes(32)
        with database:
            for row in database.execute(_CHAINED).fetchall():
                columns: list[Any] = [*row[:9], bool(row[9]), *row[10:15]]
                digest = link(digest, covered(columns, *row[15:18]))
                database.execute("update changes set chain = ? where revision = ?", (digest, row[0]))
        database.close()

    def next_signed(self) -> tuple[int, int]:
        """Return the signed head before the revision that was chosen, and the first from it on."""
        after = min((revision for revision in SIGNED if revision >= self.at), default=CHANGES)
        return max((r for r in SIGNED if r < self.at), default=0), after

    def edit(self) -> Sequence[str]:
        """Change a column of a row."""
        # In turn, so that each column is edited at least once.
        column, value = _EDITS[(self._seed // len(_WAYS) * 3 + self._seed % len(_WAYS)) % len(_EDITS)]
        self.run(f"update changes set {column} = {value} where revision = ?", self.at)  # noqa: S608 constants
        return [f"revision {self.at}: its digest does not follow"]

    def delete(self) -> Sequence[str]:
        """Remove a row."""
        self.run("delete from changes where revision = ?", self.at)
        return [f"revisions {self.at} to {self.at} are missing"]

    def swap(self) -> Sequence[str]:
        """Let two neighbours stand the other way round."""
        for before, after in ((self.at, -1), (self.at + 1, self.at), (-1, self.at + 1)):
            self.run(
                "update changes set revision = ?, batch_end = ? where revision = ?", after, after, before
            )
        return [f"revision {self.at}: its digest does not follow"]

    def truncate(self) -> Sequence[str]:
        """Cut the log off."""
        self.run("delete from changes where revision >= ?", self.at)
        _, after = self.next_signed()
        return [f"revision {after} was there before, and the log ends at {self.at - 1}"]

    def edit_and_chain_anew(self) -> Sequence[str]:
        """Change a row, and make all digests after it follow."""
        self.run("update changes set actor = 'mallory' where revision = ?", self.at)
        self.chain_anew()
        return self._between_heads()

    def delete_and_close_up(self) -> Sequence[str]:
        """Remove a row, let all after it move up, and make their digests follow."""
        self.run("delete from changes where revision = ?", self.at)
        for revision in range(self.at + 1, CHANGES + 1):
            moved = (revision - 1, revision - 1, revision)
            self.run("update changes set revision = ?, batch_end = ? where revision = ?", *moved)
        self.chain_anew()
        return self._between_heads() if self.at < CHANGES else []

    def swap_and_chain_anew(self) -> Sequence[str]:
        """Let two neighbours stand the other way round, and make all digests follow."""
        self.swap()
        self.chain_anew()
        return self._between_heads()

    def truncate_and_go_on(self) -> Sequence[str]:
        """Cut the log off and write it on differently, as long as it was."""
        self.run("update changes set reason = 'another' where revision >= ?", self.at)
        self.chain_anew()
        return self._between_heads()

    def forget_the_beginning(self) -> Sequence[str]:
        """Remove the oldest rows as compaction does."""
        self.forget(self.at)
        return [f"changes up to revision {self.at} are gone"]

    def forget(self, revision: int) -> None:
        """Remove the rows up to *revision*, as compaction does."""
        chain = "(select chain from changes where revision = ?)"
        move = f"update meta set compacted_revision = ?, compacted_chain = {chain}"  # noqa: S608 constants
        self.run(move, revision, revision)
        self.run("delete from changes where revision <= ?", revision)

    def exchange(self) -> Sequence[str]:
        """Let it be another history."""
        self.run("update changes set actor = 'mallory' where revision >= ?", self.at)
        self.chain_anew()
        self.run("update meta set epoch = ?", "f" * 32)
        return ["it was exchanged or put back"]

    def _between_heads(self) -> Sequence[str]:
        before, after = self.next_signed()
        return [f"something in revisions {before + 1} to {after} is not what it was"]


_CHAINED = """select revision, batch_end, kind, tenant, service, env, version, action, url, is_active, previous,
    actor, reason, correlation_id, occurred_at, detail, address, chain_version from changes order by revision"""
_EDITS = [
    ("batch_end", "batch_end + 1"),
    ("kind", "'other'"),
    ("tenant", "'team-x'"),
    ("service", "'x'"),
    ("env", "'staging'"),
    ("version", "'v9'"),
    ("action", "'replaced'"),
    ("url", "'https://evil.example.com/'"),
    ("is_active", "not is_active"),
    ("previous", "'{}'"),
    ("actor", "'mallory'"),
    ("reason", "'for good'"),
    ("address", "'198.51.100.1'"),
    ("correlation_id", "'other'"),
    ("occurred_at", "occurred_at + 1"),
    ("detail", "'{}'"),
    ("chain", "zeroblob(32)"),
    ("chain_version", "9 - chain_version"),
]
_WAYS = [
    *[Forger.edit] * 3,
    *(Forger.delete, Forger.swap, Forger.truncate, Forger.edit_and_chain_anew, Forger.delete_and_close_up),
    *(Forger.swap_and_chain_anew, Forger.truncate_and_go_on, Forger.forget_the_beginning, Forger.exchange),
]


def _findings(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `audit verify` says of the log in *folder*; nothing if it is sound."""
    for variable, value in {
        "DB_PATH": "routes.db",
        "AUDIT_KEY_FILE": "audit.pem",
        "AUDIT_HEADS_FILE": "heads.jsonl",
    }.items():
        monkeypatch.setenv(variable, str(folder / value))
    code = audit._verify(load_settings(env_file=None), (), (), with_kafka=False)
    found = capsys.readouterr().out
    assert code == (1 if found else 0)
    return found


def _copied(evidence: Path, to: Path) -> Path:
    shutil.copytree(evidence, to)
    return to


def test_a_log_that_nobody_touched_is_sound(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _findings(_copied(evidence, tmp_path / "sound"), monkeypatch, capsys) == ""


def test_each_of_a_hundred_tamperings_is_found_and_told_where(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missed = []
    for seed in range(TAMPERINGS):
        folder = _copied(evidence, tmp_path / str(seed))
        forger = Forger(folder / "routes.db", seed)
        way = _WAYS[seed % len(_WAYS)]
        expected = way(forger)
        found = _findings(folder, monkeypatch, capsys)
        if not all(text in found for text in expected) or not expected:
            missed.append((seed, way.__name__, expected, found.splitlines()[:3]))
        shutil.rmtree(folder)
    assert missed == []


@pytest.mark.parametrize(
    ("way", "at"),
    [
        (Forger.edit, CHANGES + 1),
        (Forger.delete, CHANGES + 1),
        (Forger.truncate, CHANGES),
        (Forger.edit_and_chain_anew, CHANGES),
    ],
)
def test_nothing_is_signed_that_does_not_follow_from_what_was_signed(
    evidence: Path, tmp_path: Path, way: Callable[[Forger], object], at: int
) -> None:
    folder = _copied(evidence, tmp_path / "copy")
    engine = SqlEngine(sqlite_settings(folder))
    for number in range(2):
        _commit(engine, number, create(a_key(f"later-{number}")))
    forger = Forger(folder / "routes.db", seed=1)
    forger.at = at
    way(forger)
    _sees_no_head_signed(engine, folder)


def _sees_no_head_signed(engine: SqlEngine, folder: Path) -> None:
    """Check that the signer adds nothing to the heads; ends *engine*."""
    key = SigningKey(folder / "audit.pem", "AUDIT_KEY_FILE")
    heads = (folder / "heads.jsonl").read_bytes()
    with HeadSigner(engine.database, key, folder / "heads.jsonl", lambda _: None) as signer:
        assert not signer.sign()
    assert (folder / "heads.jsonl").read_bytes() == heads
    engine.close()


@pytest.mark.parametrize("beyond", [1, 2])
def test_nothing_is_signed_where_changes_are_gone_that_no_head_covers(
    evidence: Path, tmp_path: Path, beyond: int
) -> None:
    """Whoever moves the boundary of what is forgotten past the last head could write anything after it."""
    folder = _copied(evidence, tmp_path / "copy")
    engine = SqlEngine(sqlite_settings(folder))
    for number in range(2):
        _commit(engine, number, create(a_key(f"later-{number}")))
    Forger(folder / "routes.db", seed=1).forget(CHANGES + beyond)
    _sees_no_head_signed(engine, folder)


# Of other types than we write, or beyond what the digest of an older row covers.
@pytest.mark.parametrize(
    "edit",
    [
        "actor = x'6162'",
        "detail = x'00'",
        "chain = 'abc'",
        "chain = 99999999999999",
        "occurred_at = 'x'",
        "is_active = 2",
        "address = '', chain_version = 1",
    ],
)
def test_a_cell_that_nobody_of_us_wrote_is_found_and_exported_as_it_stands(
    evidence: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    edit: str,
) -> None:
    folder = _copied(evidence, tmp_path / "odd")
    Forger(folder / "routes.db", 0).run(f"update changes set {edit} where revision = 4")  # noqa: S608 constants
    assert "revision 4: its digest does not follow" in _findings(folder, monkeypatch, capsys)
    engine = SqlEngine(sqlite_settings(folder))
    assert len(list(log_lines(engine.database, 0))) == CHANGES
    engine.close()


def test_more_is_not_forgotten_than_compaction_would(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _copied(evidence, tmp_path / "cut")
    Forger(folder / "routes.db", 0).forget_the_beginning()
    monkeypatch.setenv("RETENTION_DAYS", "0.000001")  # so that all heads are old enough
    assert "of which `compact` keeps the last 100,000" in _findings(folder, monkeypatch, capsys)


def test_head_after_an_unfinished_line_has_a_line_of_its_own(evidence: Path, tmp_path: Path) -> None:
    folder = _copied(evidence, tmp_path / "torn")
    heads, settings = folder / "heads.jsonl", sqlite_settings(folder)
    heads.write_bytes(heads.read_bytes() + b'{"epoch":"abc')
    engine, key = SqlEngine(settings), SigningKey(folder / "audit.pem", "AUDIT_KEY_FILE")
    _commit(engine, CHANGES, create(a_key("torn")))
    with HeadSigner(engine.database, key, heads, lambda _: None) as signer:
        assert signer.sign()
    engine.close()
    kept = read(heads.read_bytes().splitlines(keepends=True), "heads.jsonl", [key.public])
    assert ([head.revision for head in kept.heads], len(kept.findings)) == ([*SIGNED, CHANGES + 1], 1)


def test_a_restored_backup_is_no_longer_the_log_that_was_signed_and_is_signed_in_a_new_file(
    evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _copied(evidence, tmp_path / "restored")
    forger = Forger(folder / "routes.db", seed=1)
    forger.run("delete from changes where revision > 24")
    monkeypatch.setenv("DB_PATH", str(folder / "routes.db"))
    assert _new_epoch(load_settings(env_file=None)) == 0
    assert "4 API keys are in force, those that were revoked after the backup" in capsys.readouterr().out
    _sees_no_head_signed(SqlEngine(sqlite_settings(folder)), folder)
    assert "revision 33 was there before, and the log ends at 24" in _findings(folder, monkeypatch, capsys)
    (folder / "heads.jsonl").rename(folder / "lost.jsonl")
    engine = SqlEngine(sqlite_settings(folder))
    key = SigningKey(folder / "audit.pem", "AUDIT_KEY_FILE")
    with HeadSigner(engine.database, key, folder / "heads.jsonl", lambda _: None) as signer:
        assert signer.sign()
    engine.close()
    kept = read((folder / "heads.jsonl").read_bytes().splitlines(), "heads.jsonl", [key.public])
    assert [(head.epoch_number, head.revision) for head in kept.heads] == [(2, 24)]
