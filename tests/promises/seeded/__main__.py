"""`python -m tests.promises.seeded [--publish] [names]`: applies each break to a copy of the tree and runs the test
that has to fail there. The exit code is 1 if one was not caught. `--publish` writes docs/seeded-bugs.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.promises.seeded.breaks import BREAKS, Break

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "seeded-bugs.md"
COPIED = ("src", "tests", "pyproject.toml")
LINKED = ".cache"  # programs that `tests.servers.install` brought
CAUGHT, NOT_CAUGHT = "caught", "NOT CAUGHT"

_HEADER = "| Break | | Caught by | Seconds |\n|---|---|---|---|"
_INTRODUCTION = """# Is a break noticed?

A suite that passes says little until it is known to fail. Each line is a mistake that was put into the code on
purpose, one at a time, and the test that then failed. `make seeded-bugs` does all of it again and writes this page;
the patches are in `tests/promises/seeded`. B1 to B14 are mistakes that other systems have made.
"""


@dataclass(frozen=True)
class Verdict:
    """What became of a break: the first test that failed, in how many seconds."""

    broken: Break
    verdict: str
    caught_by: str
    seconds: float

    def row(self) -> str:
        """Return it as a row of the table."""
        caught_by = f"`{self.caught_by}`" if self.verdict == CAUGHT else f"**{self.verdict}**"
        return f"| {self.broken.meaning} | {self.broken.bug} | {caught_by} | {self.seconds:.0f} |"


def main(arguments: list[str]) -> int:
    """Try the breaks that are named, or all; return the exit code."""
    names = [argument for argument in arguments if argument != "--publish"]
    print(_HEADER, flush=True)
    verdicts = [_try(broken) for broken in BREAKS if not names or broken.name in names]
    if "--publish" in arguments and not names:
        PAGE.write_text(_page(verdicts))
    caught = sum(verdict.verdict == CAUGHT for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} were caught")
    return 0 if caught == len(verdicts) else 1


def _try(broken: Break) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="traffic-manager-seeded-") as folder:
        tree = Path(folder)
        _copy(tree)
        _break(tree, broken.patch)
        began = time.monotonic()
        verdict = Verdict(broken, *_test(tree, broken), time.monotonic() - began)
        print(verdict.row(), flush=True)
        return verdict


def _copy(tree: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / name)
    if (ROOT / LINKED).exists():
        (tree / LINKED).symlink_to(ROOT / LINKED)


def _break(tree: Path, patch: Path) -> None:
    """Apply *patch*; it may be some lines off, for the code around it moves."""
    subprocess.run(["git", "apply", "-C1", str(patch)], cwd=tree, check=True, capture_output=True)


def _test(tree: Path, broken: Break) -> tuple[str, str]:
    """Return the verdict, and the test that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"tests/{broken.module}", "-k", broken.words],
        cwd=tree,
        # As in CI, so that the table can be had again.
        env={**os.environ, "CI": "true", "PYTHONPATH": str(tree / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^FAILED tests/(\S+?)(\[| |$)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return CAUGHT, failed[1]
    if done.returncode == 0:
        return NOT_CAUGHT, ""
    print(done.stdout[-2000:], done.stderr[-2000:])
    return "the tests could not run", ""


def _page(verdicts: Sequence[Verdict]) -> str:
    caught = sum(verdict.verdict == CAUGHT for verdict in verdicts)
    rows = "\n".join(verdict.row() for verdict in verdicts)
    return f"{_INTRODUCTION}\n{caught} of {len(verdicts)} are caught.\n\n{_HEADER}\n{rows}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
