"""One server to one SQLite file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from traffic_manager.db.sqlite import FileLock
from traffic_manager.errors import StartRefused

_HOLDER = """
import sys
from pathlib import Path
from traffic_manager.db.sqlite import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("locked", flush=True)
sys.stdin.read()
"""


def test_second_server_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "routes.db"), FileLock(tmp_path / "routes.db")
    first.acquire()
    with pytest.raises(StartRefused, match=r"DB_PATH: another server uses .*set DB_HOST"):
        second.acquire()
    first.release()


def test_released_file_can_be_taken(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "routes.db"), FileLock(tmp_path / "routes.db")
    first.acquire()
    first.release()
    second.acquire()
    second.release()


def test_release_of_a_lock_not_held_does_nothing(tmp_path: Path) -> None:
    FileLock(tmp_path / "routes.db").release()


def test_lock_makes_the_folder(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "new" / "routes.db")
    lock.acquire()
    assert (tmp_path / "new").is_dir()
    lock.release()


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "routes.db"
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(StartRefused):
            FileLock(path).acquire()
        process.kill()
        process.wait()
    lock = FileLock(path)
    lock.acquire()
    lock.release()


def test_folder_that_cannot_be_made_is_refused_by_the_name_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match="DB_PATH: "):
        FileLock(tmp_path / "file" / "routes.db").acquire()


def test_folder_that_cannot_be_written_is_refused_by_variable_name() -> None:
    # A folder in which nobody, not even root, can make a file.
    with pytest.raises(StartRefused, match="DB_PATH: cannot write"):
        FileLock(Path("/proc/routes.db")).acquire()
