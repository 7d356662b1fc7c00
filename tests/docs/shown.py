"""The commands of a page of the documentation, carried out as a reader does, and what the page says they print.

A block marked `sh` is commands; a block marked `text` after it is all that they print. `bash` is for what is not
carried out here: what waits for the reader, or is done once before.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.node import SOURCE

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# What differs from run to run, and looks the same on every page.
_VARIES = {
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ": "<time>",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z": "<time>",
    r"\b[0-9a-f]{8}\.(?=\d)": "<epoch>.",
    r"(?<![\w/.-])[0-9A-Za-z]{12}(?![\w/.-])(?= |$)": "<key>",
    r"(?<=/)[0-9A-Za-z]{12}(?![\w/.-])": "<key>",
}
_END = "--- end of block {} ---"


@dataclass(frozen=True)
class Block:
    """Some commands, and what the page shows below them: nothing, if it does not."""

    commands: str
    printed: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page in their order."""
    found = re.findall(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", page, re.DOTALL | re.MULTILINE)
    return [Block(commands, printed) for commands, printed in found]


def same(text: str) -> str:
    """Return *text* without what differs from run to run, and without the width of columns."""
    for pattern, name in _VARIES.items():
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    lines = (re.sub(r" {2,}", "  ", re.sub("─+", "─", line)).rstrip() for line in text.strip().splitlines())
    return "\n".join(lines)


def carried_out(
    found: list[Block], folder: Path, settings: Mapping[str, str], timeout_s: float = 100.0
) -> list[str]:
    """Return what each block prints, one after the other in one shell in *folder*; fails if one command does."""
    script = "".join(
        f"{block.commands}\necho; echo '{_END.format(number)}'\n" for number, block in enumerate(found)
    )
    return re.split(r"\n--- end of block \d+ ---\n", printed_by(script, folder, settings, timeout_s))[:-1]


def printed_by(script: str, folder: Path, settings: Mapping[str, str], timeout_s: float = 100.0) -> str:
    """Return what *script* prints in *folder*, from which nothing is left running; fails if one command does."""
    environment = {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": SOURCE,
        **settings,
    }
    running = subprocess.Popen(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = running.communicate(timeout=timeout_s)
    finally:
        _end_session(running.pid)
    assert running.returncode == 0, told + "".join(log.read_text() for log in sorted(folder.glob("*.log")))
    return told


def _end_session(session: int) -> None:
    """End what a script has left running."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if os.getsid(int(process.name)) == session:
                    os.kill(int(process.name), signal.SIGKILL)
            except ProcessLookupError:
                continue
