"""`results/<date>.json`: what was measured, kept in the repository, and what is slower than that."""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure, Outcome, Series
from benchmarks.machine import describe
from benchmarks.plan import Plan

FOLDER = Path(__file__).parent / "results"
# What two runs of the same code differ by on a quiet machine; without a peer the machine itself may have been slower.
_USUAL, _USUAL_ALONE = 0.1, 0.25


@dataclass(frozen=True)
class Results:
    """One run. A later run of the same day replaces the figures that it measured again, and keeps the others."""

    date: str
    plan: str
    machine: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)

    def as_text(self) -> str:
        """Return the run as its file holds it."""
        document: dict[str, Any] = {
            "date": self.date,
            "plan": self.plan,
            "machine": self.machine,
        }  # Any: JSON
        document["figures"] = [figure.as_json() for figure in self.figures]
        document["series"] = [asdict(line) for line in self.series]
        return json.dumps(document, indent=1) + "\n"


def results_of(plan: Plan, versions: dict[str, str], outcomes: Sequence[Outcome]) -> Results:
    """Return what was measured today with the programs' *versions*."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    figures = [one for one in outcomes if isinstance(one, Figure)]
    series = [one for one in outcomes if isinstance(one, Series)]
    return Results(today, plan.name, {**describe(), **versions}, figures, series)


def read(text: str) -> Results:
    """Return the run that a file's *text* holds."""
    document = json.loads(text)
    figures = [Figure.from_json(one) for one in document["figures"]]
    series = [
        Series(one["chart"], one["name"], [(x, y) for x, y in one["points"]]) for one in document["series"]
    ]
    return Results(document["date"], document["plan"], document["machine"], figures, series)


def keep(results: Results) -> Results:
    """Write the day's file and return what it holds now."""
    path = FOLDER / f"{results.date}.json"
    kept = joined(read(path.read_text()), results) if path.exists() else results
    path.parent.mkdir(exist_ok=True)
    path.write_text(kept.as_text())
    return kept


def joined(old: Results, new: Results) -> Results:
    """Return *new* with what *old* measured and *new* did not."""
    names = {figure.name for figure in new.figures}
    points = {(line.chart, line.name, x) for line in new.series for x, _ in line.points}
    figures = [figure for figure in old.figures if figure.name not in names]
    series = [
        Series(
            line.chart,
            line.name,
            [(x, y) for x, y in line.points if (line.chart, line.name, x) not in points],
        )
        for line in old.series
    ]
    return Results(
        new.date,
        new.plan,
        new.machine,
        figures + new.figures,
        [line for line in series if line.points] + new.series,
    )


def last_committed() -> Results | None:
    """Return the newest run in the repository's last commit; None without one, or without git."""
    listed = _git("ls-tree", "--name-only", "HEAD", "results/")
    files = sorted(name for name in listed.splitlines() if name.endswith(".json"))
    return read(_git("show", f"HEAD:./{files[-1]}")) if files else None


def slower(now: Results, before: Results) -> list[str]:
    """Return a sentence for each figure whose median is worse than *before* by more than the rounds of either
    run differ among themselves, and by more than two runs usually do."""
    known = {figure.name: figure for figure in before.figures}
    pairs = [(figure, known[figure.name]) for figure in now.figures if figure.name in known]
    return [_told(new, old) for new, old in pairs if _is_worse(new, old)]


def _is_worse(new: Figure, old: Figure) -> bool:
    now, then = median(new.measured), median(old.measured)
    worsened = then - now if new.is_better_high else now - then
    usual = _USUAL if new.ratios else _USUAL_ALONE
    return worsened > max(usual * abs(then), _spread(new) / 2, _spread(old) / 2)


def _spread(figure: Figure) -> float:
    return max(figure.measured) - min(figure.measured)


def _told(new: Figure, old: Figure) -> str:
    unit = "" if new.ratios else f" {new.unit}"
    return f"{new.name}: {median(new.measured):.3g}{unit}, was {median(old.measured):.3g}{unit} ({new.what})"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
