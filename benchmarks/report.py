"""README.md: the table of all figures, the targets among them, and the charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.results import Results

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
# Kept by hand: what the measurements mean, and what is known about missed targets.
_NOTES = FOLDER / "notes.md"
_MET = {True: "yes", False: "**no**", None: ""}


def publish(results: Results) -> None:
    """Write README.md."""
    README.write_text(readme(results, _NOTES.read_text()))
    print(f"\nwritten: {README}")


def readme(results: Results, notes: str) -> str:
    """Return README.md for *results*, with the *notes* that are kept by hand."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    parts = [
        "# Benchmarks",
        f"{_summary(results.figures)} Measured {results.date} (`{results.plan}`): {machine}.",
        notes.strip(),
        "## All figures",
        "A ratio is ours over the one beside it, the median of the rounds, with the least and the most.",
        table(results.figures),
    ]
    return "\n\n".join(parts) + "\n"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table in Markdown."""
    head = ["what", "here", "beside it, in the same run", "ratio (least–most)", "target", "met", "notes"]
    rows = [head, ["---"] * len(head), *(_row(figure) for figure in figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(figure: Figure) -> list[str]:
    beside = f"{figure.peer}: {_value(figure.theirs, figure.unit)}" if figure.theirs else ""
    ratio = _spread(figure.ratios) if figure.ratios else ""
    target = str(figure.target or "")
    if figure.target and not figure.ratios:
        target += f" {figure.unit}"
        ratio = f"{median(figure.ours) / figure.target.limit:.2f} of the target"
    here = _value(figure.ours, figure.unit)
    if not figure.ratios and len(figure.ours) > 1:
        here += f" ({_number(min(figure.ours))}–{_number(max(figure.ours))})"
    return [figure.what, here, beside, ratio, target, _MET[figure.is_met], figure.note]


def _summary(figures: Sequence[Figure]) -> str:
    verdicts = [figure.is_met for figure in figures if figure.target]
    return f"{sum(map(bool, verdicts))} of {len(verdicts)} targets are met."


def _value(values: Sequence[float], unit: str) -> str:
    return f"{_number(median(values))}{unit if unit.startswith('/') else f' {unit}'}"


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
