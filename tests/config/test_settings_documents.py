"""docs/settings.md and .env.example say exactly what the code reads."""

from __future__ import annotations

import re
from pathlib import Path

from traffic_manager.config.settings import Settings

ROOT = Path(__file__).parents[2]


def documented_defaults() -> dict[str, tuple[str, str]]:
    """Return (default, meaning) of every variable, as the code has them."""
    found = {}
    for section in Settings.section_types().values():
        for field, about in section.model_fields.items():
            found[section.variable(field)] = (_text(about.default), about.description or "")
    return found


def _text(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_settings_page_has_every_variable_with_its_default_and_meaning() -> None:
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.+?) \| (.+) \|$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE
    )
    page = {name: (default.strip("`").replace("unset", ""), meaning) for name, default, meaning in rows}
    expected = documented_defaults()
    assert page == expected


def test_env_example_has_every_variable_with_its_default() -> None:
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert dict(lines) == {name: default for name, (default, _) in documented_defaults().items()}
