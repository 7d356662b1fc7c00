"""`docs/security-checklist.md` has every row of the table of attacks, and names only tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security-checklist.md").read_text()
ROWS = re.findall(r"^\| (A\d\d) \| (.+) \| (.+) \| (.*)\|$", PAGE, re.MULTILINE)
# By tens: bodies, names, URLs, HTTP, retries and limits, who asks, what they may do, what is left behind.
EXPECTED = [
    *range(1, 9), *range(10, 15), *range(20, 28), *range(30, 39), *range(40, 47), *range(50, 58), *range(60, 65),
    *range(70, 78),
]  # fmt: skip


def test_every_row_is_there_once() -> None:
    assert [row[0] for row in ROWS] == [f"A{number:02}" for number in EXPECTED]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > len(ROWS)
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(rf"^\s*(?:async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_a_row_without_a_test_says_why() -> None:
    bare = [
        row[0]
        for row in ROWS
        if "::test_" not in row[3] and not re.search("Not yet: |Does not apply: ", row[2])
    ]
    assert bare == []


def test_every_problem_that_is_named_is_documented() -> None:
    documented = (ROOT / "docs" / "errors.md").read_text()
    named = re.findall(r"\d{3} `([a-z-]+)`", PAGE)
    assert named
    assert [code for code in named if f"| `{code}` |" not in documented] == []
