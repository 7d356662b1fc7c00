"""Writes what long runs came to into docs/security-results.md, each under its heading."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "security-results.md"


def publish(heading: str, text: str) -> None:
    """Put *text* under *heading*, in the place of what stood there."""
    page = PAGE.read_text()
    section = re.compile(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    new = f"## {heading}\n\n{text.strip()}\n\n"
    found = section.sub(lambda _: new, page) if section.search(page) else f"{page.rstrip()}\n\n{new}"
    PAGE.write_text(found.rstrip() + "\n")
