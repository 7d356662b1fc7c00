"""`python -m benchmarks [SCENARIO ...] [--quick | --full] [--publish]`: measure, print, and with --publish keep."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.figures import Outcome
from benchmarks.install import versions
from benchmarks.plan import BENCH, FULL, QUICK, Plan
from benchmarks.report import publish, table
from benchmarks.results import Results, keep, last_committed, results_of, slower
from benchmarks.scenarios import SCENARIOS
from benchmarks.stage import Stage


class OutOfTime(Exception):
    """The run has used its time."""


def main() -> int:
    """Return 0 if every scenario could be measured; a missed target is a result and no failure."""
    asked = _arguments()
    plan = FULL if asked.full else QUICK if asked.quick else BENCH
    # As Ctrl-C does: every block that started a server ends it.
    signal.signal(signal.SIGTERM, _stop)
    outcomes, failed = _measured(plan, asked.scenarios or list(SCENARIOS))
    results = results_of(plan, versions(), outcomes)
    print("\n" + table(results.figures))
    _compare(results)
    if asked.publish:
        publish(keep(results))
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)} (all)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="two short rounds, to see where one stands")
    size.add_argument("--full", action="store_true", help="more rounds, and a million routes")
    parser.add_argument("--publish", action="store_true", help="write results/, README.md and charts/")
    asked = parser.parse_args()
    unknown = set(asked.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    return asked


def _measured(plan: Plan, names: list[str]) -> tuple[list[Outcome], list[str]]:
    """Return what the scenarios yielded, and the names of those that failed: one spoils no other."""
    outcomes: list[Outcome] = []
    failed = []
    deadline = time.monotonic() + plan.limit_s
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder, ExitStack() as things:
        stage = Stage(plan, Path(folder), things)
        for name in names:
            stage.say(f"== {name}")
            try:
                with _at_most(deadline - time.monotonic()):
                    outcomes += SCENARIOS[name](stage)
            except OutOfTime:
                stage.say(f"out of time after {plan.limit_s:.0f} s")
                failed.append(name)
            except Exception:
                traceback.print_exc()
                failed.append(name)
    return outcomes, failed


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block when *seconds* have passed."""
    if seconds <= 0:
        raise OutOfTime
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def _compare(results: Results) -> None:
    before = last_committed()
    if before is None:
        print("\nNo committed results to compare with.")
        return
    worse = slower(results, before)
    print(f"\nSlower than on {before.date}:" if worse else f"\nNothing is slower than on {before.date}.")
    for line in worse:
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
