"""The kept breaks still fit the code, so that `make seeded-bugs` shows what it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.promises.seeded.__main__ import PAGE, ROOT
from tests.promises.seeded.breaks import BREAKS, PATCHES, Break


@pytest.mark.parametrize("patch", sorted(PATCHES.glob("*.patch")), ids=lambda path: path.stem)
def test_break_can_be_applied_to_the_code_as_it_is(patch: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "--check", "-C1", str(patch)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_break_has_a_test_that_must_catch_it() -> None:
    assert sorted(path.stem for path in PATCHES.glob("*.patch")) == sorted(broken.name for broken in BREAKS)


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.name)
def test_what_must_catch_a_break_exists(broken: Break) -> None:
    tests = (ROOT / "tests" / broken.module).read_text()
    assert any(words in tests for words in broken.words.split(" or "))


def test_every_bug_of_other_systems_is_seeded() -> None:
    assert {broken.bug for broken in BREAKS} - {""} == {f"B{number}" for number in range(1, 15)}


def test_the_page_has_a_row_for_each_break_and_each_was_caught() -> None:
    page = PAGE.read_text()
    assert f"{len(BREAKS)} of {len(BREAKS)} are caught." in page
    assert all(f"| {broken.meaning} | {broken.bug} | `" in page for broken in BREAKS)
