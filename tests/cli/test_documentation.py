"""docs/cli.md knows every command and every option."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from traffic_manager.cli import app, exits

DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:  # Any: typer's vendored click
    """Yield every command that does something, with its full name."""
    children = getattr(command, "commands", None)
    if children is None or command.invoke_without_command:
        yield path, command
    for name, child in (children or {}).items():
        yield from commands(child, f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(app), "traffic-manager"))
COMMON = sections()["Options of every client command"]


@pytest.mark.parametrize("name", COMMANDS)
def test_command_has_a_section_that_names_its_options(name: str) -> None:
    section = sections().get(name, "")
    text = section + COMMON
    options = [option for param in COMMANDS[name].params for option in (*param.opts, *param.secondary_opts)]
    missing = [option for option in options if option.startswith("-") and f"`{option}" not in text]
    assert (bool(section), missing) == (True, [])


def test_options_of_the_program_itself_are_named() -> None:
    root = typer.main.get_command(app)
    missing = [option for param in root.params for option in param.opts if f"`{option}" not in COMMON]
    assert missing == []


def test_every_exit_code_is_explained() -> None:
    codes = [value for name, value in vars(exits).items() if name.isupper() and type(value) is int]
    missing = [code for code in codes if f"\n| {code} |" not in sections()["Exit codes"]]
    assert missing == []


def test_no_section_is_of_a_command_that_is_gone() -> None:
    described = [name for name in sections() if name.startswith("traffic-manager")]
    assert [name for name in described if name not in COMMANDS] == []
