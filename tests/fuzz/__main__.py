"""Fuzzes each target for long, guided by coverage: `python -m tests.fuzz [TARGET...]`, with atheris installed.

Each target runs in a process of its own, for so many `--runs` or `--seconds`. What it could not take is printed, with
the bytes in a file `crash-...` of the folder where it was started. `--publish` writes what came of it to
docs/security-results.md.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.access.results import publish

# By the clock on the wall, on a machine that may be busy; a reader that takes a power of its input takes longer.
_SLOWEST_S = 5
_PAGE = """Guided by coverage (atheris), {runs:,} executions of each target, seed 1. A target fails where its reader
takes bytes wrongly, or refuses them in an undocumented way.

| target | executions | seconds | branches reached | failures |
|---|---|---|---|---|
{rows}

`make fuzz` tries this again; `tests/fuzz/targets.py` says what each target takes for right."""


def main() -> int:
    """Fuzz; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("targets", nargs="*")
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--seconds", type=int, help="of each target, instead of runs")
    options.add_argument("--publish", action="store_true")
    options.add_argument("--alone", help=argparse.SUPPRESS)
    given = options.parse_args()
    limit = f"-runs={given.runs}" if given.seconds is None else f"-max_total_time={given.seconds}"
    if given.alone:
        _fuzz(given.alone, limit)
    from tests.fuzz.targets import targets

    rows = [_row(name, _asked(given)) for name in given.targets or targets()]
    if given.publish:
        publish("Fuzzing", _PAGE.format(runs=given.runs, rows="\n".join(rows)))
    return 1 if any(not row.endswith("| 0 |") for row in rows) else 0


def _asked(given: argparse.Namespace) -> list[str]:
    if given.seconds is not None:
        return ["--seconds", str(given.seconds)]
    return ["--runs", str(given.runs)]


def _row(name: str, asked: list[str]) -> str:
    command = [sys.executable, "-m", "tests.fuzz", "--alone", name, *asked]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    ended = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
    reached = re.findall(r"cov: (\d+)", done.stderr)
    failures = 0 if done.returncode == 0 and ended else 1
    if failures:
        print(done.stderr[-4000:])
    made, seconds = ended.groups() if ended else ("0", "")
    row = f"| {name} | {int(made):,} | {seconds} | {reached[-1] if reached else ''} | {failures} |"
    print(row, flush=True)
    return row


def _fuzz(name: str, limit: str) -> None:
    """Fuzz one target, and end the process."""
    atheris: Any = importlib.import_module("atheris")  # Any: it is installed for this alone
    with atheris.instrument_imports(include=["traffic_manager"]):
        from tests.fuzz.targets import SILENT, targets
        from traffic_manager import snapshot
    snapshot.log = SILENT
    target = targets()[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [limit, "-seed=1", "-max_len=4096", f"-timeout={_SLOWEST_S}", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], *limits, corpus], target.read)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
