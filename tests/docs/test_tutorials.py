"""The tutorials and guides work as they stand there, and print what they say: their very commands, on SQLite."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.docs.shown import DOCS, Block, blocks, carried_out, same
from tests.node import Node
from tests.servers.ports import free_port

PAGES = {
    path.stem: path for folder in ("tutorials", "how-to") for path in sorted((DOCS / folder).glob("*.md"))
}
EXAMPLES = {name: found for name, path in PAGES.items() if (found := blocks(path.read_text()))}
SERVER = "http://localhost:8000"


@pytest.mark.parametrize("name", EXAMPLES)
def test_commands_print_what_the_page_says(name: str, tmp_path: Path) -> None:
    found = EXAMPLES[name]
    printed = _printed(found, tmp_path)
    for block, text in zip(found, printed, strict=True):
        assert same(block.printed) == same(text) or not block.printed, block.commands


def _printed(found: list[Block], folder: Path) -> list[str]:
    """Return what the blocks print, told of a server of this test's own, unless they start one."""
    port = free_port()
    starts_one = any("traffic-manager serve" in block.commands for block in found)
    with nullcontext() if starts_one else Node(folder) as node:
        url = node.start().url if node else f"http://127.0.0.1:{port}"
        here = [Block(block.commands.replace(SERVER, url), block.printed) for block in found]
        return carried_out(here, folder, {"API_PORT": str(port)} | ({} if starts_one else {"TM_URL": url}))


def test_every_tutorial_is_carried_out() -> None:
    assert {path.stem for path in (DOCS / "tutorials").glob("*.md")} <= EXAMPLES.keys()


def test_a_page_that_shows_something_else_is_noticed() -> None:
    assert same('etag      "f649ba11.1"\n') == same('etag  "0000000a.1"')
    assert same('etag      "f649ba11.1"\n') != same('etag      "f649ba11.2"\n')
    assert same("2 rows") != same("3 rows")


@pytest.mark.parametrize("name", PAGES)
def test_no_block_is_of_a_kind_that_nobody_carries_out(name: str) -> None:
    kinds = set(re.findall(r"^```(\w*)$", PAGES[name].read_text(), re.MULTILINE)) - {""}
    assert kinds <= {"sh", "text", "bash", "json", "python", "console"}
