"""README.md: the table of all figures, the targets among them, and the charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.charts import bars, lines
from benchmarks.figures import Figure, Series
from benchmarks.results import Results

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
CHARTS = FOLDER / "charts"
# Kept by hand: what the measurements mean, and what is known about missed targets.
_NOTES = FOLDER / "notes.md"
_MET = {True: "yes", False: "**no**", None: ""}


_CHARTS: dict[str, Callable[[Sequence[Series]], str]] = {
    "resolve-rate": partial(bars, "Resolves a second, 64 connections, load generator on the same cores"),
    "write-rate": partial(bars, "Writes a second, 64 connections, flushed to the disk"),
    "latency": partial(lines, "Time to the answer, 64 connections", "percentile", "ms", is_log=True),
    "memory": partial(lines, "Memory over routes, after resolves", "routes", "MB", is_log=False),
    "start-up": partial(lines, "Start to ready over routes", "routes", "seconds", is_log=False),
    "propagation": partial(lines, "Commit to the new answer", "percentile", "ms", is_log=True),
    "bounded": partial(
        lines, "Time to the answer, all or a tenth in memory", "percentile", "ms", is_log=True
    ),
    "watching": partial(lines, "Commit to the event at a watcher", "percentile", "ms", is_log=True),
}


def publish(results: Results) -> None:
    """Write README.md and its charts."""
    drawn = draw(results.series)
    CHARTS.mkdir(exist_ok=True)
    for name, picture in drawn.items():
        (CHARTS / f"{name}.svg").write_text(picture)
    README.write_text(readme(results, _NOTES.read_text(), list(drawn)))
    print(f"\nwritten: {README}")


def draw(series: Sequence[Series]) -> dict[str, str]:
    """Return the charts, by name, that there are points for."""
    lines_of = {name: [one for one in _whole(series) if one.chart == name] for name in _CHARTS}
    return {name: draw_one(lines_of[name]) for name, draw_one in _CHARTS.items() if lines_of[name]}


def _whole(series: Sequence[Series]) -> list[Series]:
    """Join the points that were measured one by one into lines."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one in series:
        points.setdefault((one.chart, one.name), []).extend(one.points)
    return [Series(chart, name, sorted(line)) for (chart, name), line in points.items()]


def readme(results: Results, notes: str, charts: Sequence[str]) -> str:
    """Return README.md for *results*, with the *notes* that are kept by hand and the named *charts*."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    targets = [figure for figure in results.figures if figure.target]
    others = [figure for figure in results.figures if not figure.target and not is_growth(figure)]
    parts = [
        "# Benchmarks",
        f"{_summary(results.figures)} Measured {results.date} (`{results.plan}`): {machine}.",
        notes.strip(),
        "## Targets",
        "A ratio is ours over the one beside it, the median of the rounds, with the least and the most.",
        table(targets),
        "## Growth with the table",
        growth([figure for figure in results.figures if is_growth(figure)]),
        "## More figures",
        table(others),
        "## Charts",
        "\n\n".join(f"![{name}](charts/{name}.svg)" for name in charts),
    ]
    return "\n\n".join(parts) + "\n"


def is_growth(figure: Figure) -> bool:
    """Return whether a figure was measured at several sizes of the table: its name ends with the size."""
    return figure.name.rpartition(".")[2].isdigit() and figure.name.startswith("size.")


def growth(figures: Sequence[Figure]) -> str:
    """Return a table in Markdown with a column for each size."""
    cells: dict[str, dict[int, str]] = {}
    for figure in figures:
        size = int(figure.name.rpartition(".")[2])
        cells.setdefault(_without_size(figure.what, size), {})[size] = _value(figure.ours, figure.unit)
    sizes = sorted({size for row in cells.values() for size in row})
    head = ["what", *(f"{size:,} routes" for size in sizes)]
    rows = [[what, *(row.get(size, "") for size in sizes)] for what, row in cells.items()]
    return _markdown([head, ["---"] * len(head), *rows])


def _without_size(what: str, size: int) -> str:
    return what.replace(f", {size:,} routes", "").replace(f" beside {size:,}", "")


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table in Markdown."""
    head = ["what", "here", "beside it, in the same run", "ratio (least–most)", "target", "met", "notes"]
    rows = [head, ["---"] * len(head), *(_row(figure) for figure in figures)]
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
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
