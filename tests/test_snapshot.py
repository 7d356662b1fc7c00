"""The table on disk: read as it was written, or not at all."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from tests.routing.builders import EPOCH, OTHER_EPOCH
from traffic_manager.routing.follower import Beside
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Entry, Head, Limit, StoredKey, Table
from traffic_manager.routing.table import RouteTable
from traffic_manager.saving import Saving
from traffic_manager.snapshot import Snapshot, SnapshotFile

SOURCE = "db.example.com:5432/app_db"
LIMIT = Limit("tenant", "team-a", writes=5, routes=100)
KEY = StoredKey("id", "alice", bytes(range(32)), '[["viewer", "*", "*"]]', 1_900_000_000_000_000)
CHAIN = bytes(range(32))


def a_mirror(routes: int = 3, revision: int = 9) -> Mirror:
    """Return a complete mirror."""
    mirror = Mirror(max_routes=10_000)
    entries = RouteTable()
    entries.load((f"team-a/s{n}/prod/v1", f"https://s{n}.example.com/", n) for n in range(routes))
    mirror.load(Table(Head(EPOCH, 2, revision), CHAIN, entries, (), revision))
    return mirror


@pytest.fixture
def file(tmp_path: Path) -> SnapshotFile:
    return SnapshotFile(tmp_path / "folder" / "snapshot", SOURCE)


def path_of(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "snapshot"


def content(found: Snapshot | None) -> tuple[Head, bytes, dict[str, Entry], object, float]:
    """Return what a test can compare."""
    assert found
    table = found.table
    return table.head, table.chain, dict(table.entries.items()), found.beside, found.seen_at


@pytest.mark.parametrize("beside", [Beside(None, []), Beside([], []), Beside([KEY], [LIMIT])])
def test_what_was_written_is_read_back(file: SnapshotFile, beside: Beside) -> None:
    file.write(a_mirror(1500), beside, seen_at=123.5)
    expected = {f"team-a/s{n}/prod/v1": Entry(f"https://s{n}.example.com/", n) for n in range(1500)}
    assert content(file.read()) == (Head(EPOCH, 2, 9), CHAIN, expected, beside, 123.5)


def test_content_is_on_the_disk_before_its_name_and_then_the_name(
    file: SnapshotFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, rename = os.fsync, os.replace

    def noted_flush(descriptor: int) -> None:
        flush(descriptor)
        done.append("flush")

    def noted_rename(old: Path, new: Path) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(os, "replace", noted_rename)
    file.write(a_mirror(), Beside(), seen_at=1.0)
    # The first rename, of the file before, has found none.
    assert done == ["flush", "rename", "rename", "flush"]


def test_nothing_is_read_where_nothing_was_written(file: SnapshotFile) -> None:
    assert file.read() is None


def test_only_the_owner_may_read_it(file: SnapshotFile, tmp_path: Path) -> None:
    file.write(a_mirror(), Beside([KEY]), seen_at=1.0)
    assert stat.S_IMODE(path_of(tmp_path).stat().st_mode) == 0o600


def test_table_of_another_database_is_not_read(file: SnapshotFile, tmp_path: Path) -> None:
    file.write(a_mirror(), Beside(), seen_at=1.0)
    assert SnapshotFile(path_of(tmp_path), "elsewhere:5432/app_db").read() is None


def test_file_cut_off_anywhere_is_not_read(file: SnapshotFile, tmp_path: Path) -> None:
    file.write(a_mirror(), Beside([KEY]), seen_at=1.0)
    whole = path_of(tmp_path).read_bytes()
    for size in range(len(whole)):
        path_of(tmp_path).write_bytes(whole[:size])
        assert file.read() is None, size


def test_file_with_a_changed_byte_anywhere_is_not_read(file: SnapshotFile, tmp_path: Path) -> None:
    file.write(a_mirror(), Beside([KEY]), seen_at=1.0)
    whole = bytearray(path_of(tmp_path).read_bytes())
    for place in range(len(whole)):
        damaged = whole.copy()
        damaged[place] ^= 1
        path_of(tmp_path).write_bytes(damaged)
        assert file.read() is None, place


def test_one_before_takes_the_place_of_a_damaged_one(file: SnapshotFile, tmp_path: Path) -> None:
    file.write(a_mirror(revision=1), Beside(), seen_at=1.0)
    file.write(a_mirror(revision=2), Beside(), seen_at=2.0)
    path_of(tmp_path).write_bytes(b"damaged")
    found = file.read()
    assert found
    assert found.table.head.revision == 1


def test_failed_write_leaves_the_one_before(file: SnapshotFile, tmp_path: Path) -> None:
    file.write(a_mirror(revision=1), Beside(), seen_at=1.0)
    path_of(tmp_path).with_name("snapshot.unfinished").mkdir()
    with pytest.raises(OSError, match=r"snapshot\.unfinished"):
        file.write(a_mirror(revision=2), Beside(), seen_at=2.0)
    found = file.read()
    assert found
    assert found.table.head.revision == 1


def test_mirror_is_saved_in_the_background_when_it_has_changed(tmp_path: Path) -> None:
    saving = Saving(path_of(tmp_path), SOURCE)
    saving.save_if_due(a_mirror(revision=1), Beside())
    pid, status = os.waitpid(-1, 0)
    saving.ended(pid, os.waitstatus_to_exitcode(status))
    saving.save_if_due(a_mirror(revision=2), Beside())  # not due yet
    found = saving.recall()
    assert found
    assert found.table.head.revision == 1
    saving.save_last(a_mirror(revision=2), Beside(), staleness_s=0.0)
    found = saving.recall()
    assert found
    assert found.table.head.revision == 2


def test_mirror_that_knows_only_a_part_is_not_saved(tmp_path: Path) -> None:
    saving = Saving(path_of(tmp_path), SOURCE)
    part = Mirror(max_routes=1)
    entries = {"team-a/s1/prod/v1": Entry("https://s1.example.com/", 1)}
    part.load(Table(Head(EPOCH, 2, 9), CHAIN, entries, (), 9, beyond=3))
    for mirror in (Mirror(max_routes=0), part):
        saving.save_last(mirror, Beside(), staleness_s=0.0)
    assert saving.recall() is None


def test_what_is_saved_in_the_end_is_as_old_as_the_last_look_at_the_database(tmp_path: Path) -> None:
    saving, now = Saving(path_of(tmp_path), SOURCE), time.time()
    saving.save_last(a_mirror(), Beside(), staleness_s=3600.0)
    found = saving.recall()
    assert found
    assert found.seen_at < now - 3500


def test_same_revision_of_another_history_is_saved(tmp_path: Path) -> None:
    saving = Saving(path_of(tmp_path), SOURCE)
    saving.save_if_due(a_mirror(), Beside())
    other = a_mirror()
    other.load(Table(Head(OTHER_EPOCH, 3, 9), CHAIN, RouteTable(), (), 9))
    saving.save_last(other, Beside(), staleness_s=0.0)
    found = saving.recall()
    assert found
    assert found.table.head.epoch == OTHER_EPOCH


def test_what_could_not_be_saved_is_saved_next_time(tmp_path: Path) -> None:
    path = path_of(tmp_path)
    saving = Saving(path, SOURCE)
    path.parent.write_text("a file where the folder belongs")
    saving.save_if_due(a_mirror(), Beside())
    pid, status = os.waitpid(-1, 0)
    saving.ended(pid, os.waitstatus_to_exitcode(status))
    path.parent.unlink()
    saving.save_last(a_mirror(), Beside(), staleness_s=0.0)
    assert saving.recall()
