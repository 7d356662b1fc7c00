"""docs/security.md says what the table in the code says."""

from __future__ import annotations

import re
from pathlib import Path

from traffic_manager.access.permissions import ROLES_OF, Operation, Role

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


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
