"""`python -m tests.promises.seeded [names]`: applies each break to a copy of the tree and runs the test that has to
fail there. The exit code is 1 if one was not caught.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PATCHES = Path(__file__).parent
COPIED = ("src", "tests", "pyproject.toml")
LINKED = ".cache"  # programs that `tests.servers.install` brought

BOUNDED_MIRROR = ("../routing/test_bounded_mirror.py", "no_answer_of_a_mirror_that_grows_and_shrinks")
# What has to notice each break: a module of tests, and words to choose from it by.
TESTS = {
    "answer_before_commit": ("test_durability.py", "no_answer_comes_before_the_commit"),
    "lock_and_head_in_one_statement": ("test_one_order.py", "four_processes"),
    "no_revision_lock": ("test_one_order.py", "four_processes"),
    "no_memory_of_what_was_shown": ("test_sessions.py", "after_a_strong_one"),
    "cached_values_are_not_checked": ("test_sessions.py", "under_load or forgets"),
    "token_ignored": ("test_sessions.py", "token_of_a_write"),
    "strong_reads_from_memory": ("test_sessions.py", "a_strong_read_sees"),
    "not_found_when_the_database_fails": ("test_knowledge.py", "without_mirror_and_database"),
    "no_flag": ("test_freshness.py", "none_unflagged_is_older"),
    "dead_connections_stay_in_the_pool": ("test_recovery.py", "many_crashes"),
    "readiness_follows_redis": ("test_optional_parts.py", "depends_on_redis"),
    "checkpoint_before_acknowledgement": ("test_events.py", "every_change_arrives"),
    "one_revision_for_all_that_was_shown": ("../routing/test_resolver.py", "no_other_keys_value_refused"),
    "what_was_shown_is_not_asked": BOUNDED_MIRROR,
    "late_look_ups_are_not_checked": BOUNDED_MIRROR,
    "failed_look_ups_are_remembered": BOUNDED_MIRROR,
    "own_writes_by_a_side_door": BOUNDED_MIRROR,
    "not_found_after_a_drop": BOUNDED_MIRROR,
    "complete_without_a_load": BOUNDED_MIRROR,
    "another_epoch_is_believed": BOUNDED_MIRROR,
    "what_was_shown_overtakes_changes": BOUNDED_MIRROR,
    "held_routes_are_not_followed": BOUNDED_MIRROR,
    "left_history_comes_back": BOUNDED_MIRROR,
}
_PYTEST_SAYS = {0: "NOT CAUGHT", 1: "caught"}


def main(names: list[str]) -> int:
    """Try the breaks called *names*, or all; return the exit code."""
    verdicts = [_try(name) for name in names or TESTS]
    return 0 if all(verdict == "caught" for verdict in verdicts) else 1


def _try(name: str) -> str:
    with tempfile.TemporaryDirectory(prefix="traffic-manager-seeded-") as folder:
        tree = Path(folder)
        _copy(tree)
        _break(tree, PATCHES / f"{name}.patch")
        began = time.monotonic()
        verdict = _test(tree, *TESTS[name])
        print(f"{verdict}: {name} by {TESTS[name][0]} ({time.monotonic() - began:.0f} s)", flush=True)
        return verdict


def _copy(tree: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / name)
    if (ROOT / LINKED).exists():
        (tree / LINKED).symlink_to(ROOT / LINKED)


def _break(tree: Path, patch: Path) -> None:
    """Apply *patch*; it may be some lines off, for the code around it moves."""
    subprocess.run(["git", "apply", "-C1", str(patch)], cwd=tree, check=True)


def _test(tree: Path, module: str, chosen: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"tests/promises/{module}", "-k", chosen],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in _PYTEST_SAYS:
        print(done.stdout[-2000:], done.stderr[-2000:])
    elif done.returncode == 1:
        print(
            *(line for line in done.stdout.splitlines() if line.startswith(("E   ", "FAILED", "ERROR"))),
            sep="\n",
        )
    return _PYTEST_SAYS.get(done.returncode, "the tests could not run")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
