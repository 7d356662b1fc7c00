"""`docs/reliability.md` names only what there is: an on-call person finds every metric, line and command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.monitoring.exposition import types
from traffic_manager.cli import app
from traffic_manager.config.loading import load_settings
from traffic_manager.config.settings import shown
from traffic_manager.monitoring.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
SOURCES = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))


def _heading_link(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _table(heading: str) -> list[list[str]]:
    """Return the rows of the first table under *heading*, without its head."""
    section = PAGE[PAGE.index(f"\n## {heading}\n") :]
    lines = re.findall(r"^\|.*\|$", section, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows[2:] if len(row) == len(rows[0])]


def test_every_metric_and_every_log_line_that_is_named_exists() -> None:
    named = {
        word
        for row in _table("When a part fails")
        for word in re.findall(r"`([a-z]+(?:_[a-z]+)+)[`{]", row[3])
    }
    metrics = set(types(Metrics().render()))
    assert named & metrics
    assert named - metrics
    assert [name for name in named - metrics if f'"{name}"' not in SOURCES] == []


def test_every_command_that_is_named_exists() -> None:
    named = re.findall(r"`traffic-manager ([a-z -]+?)(?: -[^`]*)?`", PAGE)
    assert named
    for command in named:
        here: Any = typer.main.get_command(app)  # typer's vendored click
        for word in command.split():
            here = getattr(here, "commands", {}).get(word)
            assert here is not None, command


def test_every_setting_that_is_named_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)[`=]", PAGE))
    assert named
    assert named - set(shown(load_settings())) == set()


def test_every_link_leads_somewhere() -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", PAGE):
        text = (ROOT / "docs" / target).read_text() if target else PAGE
        headings = [_heading_link(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
        assert not anchor or anchor in headings, (target, anchor)


def test_every_bug_names_the_test_that_keeps_it_away() -> None:
    rows = _table("Bugs found")
    assert rows
    for row in rows:
        tests = re.findall(r"`(test_\w+)`", row[2])
        assert tests, row
        assert [test for test in tests if f"def {test}" not in TESTS] == []
