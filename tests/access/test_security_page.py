"""docs/security.md says what the table in the code says."""

from __future__ import annotations

import re
from pathlib import Path

from traffic_manager.access.permissions import ROLES_OF, Operation, Role
from traffic_manager.config.settings import Settings

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text()


def test_table_of_permissions_is_that_of_the_code() -> None:
    head, *rows = re.findall(r"^\| (`[a-z-]+`|operation) \|(.*)\|$", PAGE, re.MULTILINE)
    roles = [Role(cell.strip(" `")) for cell in head[1].split("|")]
    found = {
        Operation(name.strip("`")): {
            role for role, cell in zip(roles, cells.split("|"), strict=True) if cell.strip()
        }
        for name, cells in rows
    }
    assert roles == list(Role)
    assert found == ROLES_OF


def test_each_of_the_ten_of_owasp_has_an_answer_and_tests_that_exist() -> None:
    rows = re.findall(r"^\| (API\d+) .+ \| .+ \| (.+) \|$", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == [f"API{number}" for number in range(1, 11)]
    for name, cell in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", cell)
        assert named, name
        for file, test in named:
            assert re.search(rf"def {test}\(", (TESTS / file).read_text()), (name, test)


def test_every_secret_of_the_settings_is_told_how_to_change() -> None:
    section = PAGE[PAGE.index("## Changing every secret") :]
    secrets = {
        section.variable(field)
        for section in Settings.section_types().values()
        for field in section.secret_fields()
    }
    assert len(secrets) >= 5
    assert [name for name in secrets if f"`{name}`" not in section] == []
