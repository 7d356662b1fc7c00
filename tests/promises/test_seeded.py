"""The kept breaks still fit the code, so that `python -m tests.promises.seeded` shows what it says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.promises.seeded.__main__ import PATCHES, ROOT, TESTS


@pytest.mark.parametrize("patch", sorted(PATCHES.glob("*.patch")), ids=lambda path: path.stem)
def test_break_can_be_applied_to_the_code_as_it_is(patch: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "--check", "-C1", str(patch)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_break_has_a_test_that_must_catch_it() -> None:
    assert sorted(path.stem for path in PATCHES.glob("*.patch")) == sorted(TESTS)
