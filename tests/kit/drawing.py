"""A dashboard as SVG: its panels in their places, much as Grafana draws them, from what a Prometheus has answered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from tests.kit.units import written
from tests.monitoring.observability import Panel

COLUMN, ROW, HEAD = 50, 24, 64
_TEXT, _QUIET, _LINE = "#1f2328", "#656d76", "#d0d7de"
# Okabe and Ito's colours, which the colour-blind can tell apart, and their darker kin.
_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#7f7f7f", "#8c564b", "#1b5e20", "#b8860b", "#5e35b1", "#00838f"),
)
_NAMED = {"green": "#2e8b57", "orange": "#e69f00", "red": "#c62828", "gray": "#c8ccd0"}
_LEGENDS, _LEGEND_ROWS = 12, 3


@dataclass(frozen=True)
class Curve:
    """One series of a panel. A moment without a value is left out."""

    legend: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Band:
    """A time in which something was the matter."""

    what: str
    begin: float
    end: float


@dataclass(frozen=True)
class Span:
    """What is shown: seconds since 1970, and what happened meanwhile."""

    begin: float
    end: float
    bands: Sequence[Band]


@dataclass(frozen=True)
class _Box:
    """Where something is drawn."""

    x: float
    y: float
    width: float
    height: float


def dashboard(title: str, panels: Sequence[tuple[Panel, Sequence[Curve]]], span: Span) -> str:
    """Return the whole sheet."""
    parts = [_text(12, 26, title, size=17, weight="bold"), *_story(span)]
    for panel, curves in panels:
        parts += _panel(panel, curves, span)
    height = HEAD + ROW * max(top + rows for _, top, _, rows in (panel.place for panel, _ in panels)) + 8
    width = 24 * COLUMN + 8
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    font = 'font-family="system-ui, sans-serif" font-size="11"'
    sheet = f'<rect width="{width}" height="{height}" fill="#f6f8fa"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', sheet, *parts, "</svg>", ""])


def _story(span: Span) -> Iterator[str]:
    text = "  ·  ".join(f"{letter}: {band.what}" for letter, band in zip("ABCDEF", span.bands, strict=False))
    yield _text(12, 48, text, colour=_QUIET, size=13)


def _panel(panel: Panel, curves: Sequence[Curve], span: Span) -> Iterator[str]:
    left, top, columns, rows = panel.place
    box = _Box(left * COLUMN + 8, top * ROW + HEAD, columns * COLUMN - 8, rows * ROW - 8)
    frame = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="4"'
    yield f'<rect {frame} fill="#ffffff" stroke="{_LINE}"/>'
    yield _text(box.x + 10, box.y + 18, panel.title, size=12, weight="bold")
    inner = _Box(box.x + 10, box.y + 26, box.width - 20, box.height - 34)
    draw = {"timeseries": _lines, "stat": _number, "bargauge": _bars, "state-timeline": _states}
    yield from draw[panel.kind](panel, curves, inner, span)


def _lines(panel: Panel, curves: Sequence[Curve], box: _Box, span: Span) -> Iterator[str]:
    legends, plot = _legends(curves, box)
    is_log = "scaleDistribution" in panel.document["fieldConfig"]["defaults"]["custom"]
    is_stacked = panel.document["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    stacked = list(_stacked(curves)) if is_stacked else list(curves)
    ticks = _ticks([value for curve in stacked for _, value in curve.points], is_log)
    yield from _bands(plot, span)
    for tick in ticks:
        y = _height(tick, ticks, plot, is_log)
        yield f'<line x1="{plot.x}" x2="{plot.x + plot.width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eaeef2"/>'
        yield _text(plot.x - 5, y + 4, written(tick, panel.unit), anchor="end", colour=_QUIET, size=10)
    for number, curve in reversed(list(enumerate(stacked))):
        yield from _curve(curve, _COLOURS[number % len(_COLOURS)], ticks, plot, span, is_log, is_stacked)
    yield from _minutes(plot, span)
    yield from legends


def _minutes(plot: _Box, span: Span) -> Iterator[str]:
    for minute in range(1, int((span.end - span.begin) / 60) + 1):
        x = _across(span.begin + 60 * minute, plot, span)
        yield _text(x, plot.y + plot.height + 11, f"{minute} min", anchor="middle", colour=_QUIET, size=9)


def _curve(
    curve: Curve,
    colour: str,
    ticks: Sequence[float],
    plot: _Box,
    span: Span,
    is_log: bool,
    is_stacked: bool,
) -> Iterator[str]:
    """Yield the line, broken where there is no value; of a stack also what is below."""
    for piece in _pieces(curve.points):
        dots = [(_across(time, plot, span), _height(value, ticks, plot, is_log)) for time, value in piece]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        if is_stacked:
            floor = plot.y + plot.height
            ends = f"{dots[-1][0]:.1f},{floor:.1f} {dots[0][0]:.1f},{floor:.1f}"
            yield f'<polygon points="{path} {ends}" fill="{colour}"/>'
        else:
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _stacked(curves: Sequence[Curve]) -> Iterator[Curve]:
    """Yield each curve on top of those before it."""
    below: dict[float, float] = {}
    for curve in curves:
        for time, value in curve.points:
            below[time] = below.get(time, 0.0) + value
        yield Curve(curve.legend, sorted((time, below[time]) for time, _ in curve.points))


def _pieces(points: Sequence[tuple[float, float]]) -> Iterator[Sequence[tuple[float, float]]]:
    """Yield what belongs together: the moments of one step each."""
    step = min((later - earlier for (earlier, _), (later, _) in pairwise(points)), default=0)
    piece: list[tuple[float, float]] = []
    for point in points:
        if piece and point[0] - piece[-1][0] > 1.5 * step:
            yield piece
            piece = []
        piece.append(point)
    if piece:
        yield piece


def _number(panel: Panel, curves: Sequence[Curve], box: _Box, span: Span) -> Iterator[str]:
    values = [value for curve in curves for _, value in curve.points]
    mapped = _mapping(panel, values[-1])
    text, colour = mapped or (written(values[-1], panel.unit), _threshold(panel, values[-1]))
    ticks = _ticks(values, is_log=False)
    for piece in _pieces(curves[0].points):
        dots = [(_across(time, box, span), _height(value, ticks, box, False)) for time, value in piece]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-opacity="0.3"/>'
    yield _text(
        box.x + box.width / 2, box.y + 34, text, anchor="middle", size=26, weight="bold", colour=colour
    )


def _bars(panel: Panel, curves: Sequence[Curve], box: _Box, span: Span) -> Iterator[str]:
    greatest = panel.document["fieldConfig"]["defaults"]["max"]
    for number, curve in enumerate(curves):
        value, y = curve.points[-1][1], box.y + 2 + number * 29
        length = box.width * min(1.0, max(0.0, value / greatest))
        yield _text(box.x, y + 10, curve.legend, colour=_QUIET, size=10)
        yield _text(box.x + box.width, y + 10, written(value, panel.unit), anchor="end", size=10)
        yield f'<rect x="{box.x}" y="{y + 14}" width="{box.width}" height="8" fill="#eaeef2"/>'
        colour = _threshold(panel, value)
        yield f'<rect x="{box.x}" y="{y + 14}" width="{length:.1f}" height="8" fill="{colour}"/>'


def _states(panel: Panel, curves: Sequence[Curve], box: _Box, span: Span) -> Iterator[str]:
    """Yield a row for each series, and below what the colours mean."""
    names = min(140.0, max(_length(curve.legend) for curve in curves) + 8)
    plot = _Box(box.x + names, box.y, box.width - names, box.height - 20)
    room = plot.height / len(curves)
    for number, curve in enumerate(curves):
        y = plot.y + number * room
        yield _text(plot.x - 6, y + room / 2 + 4, _cut(curve.legend, names), anchor="end", size=10)
        for begin, end, value in _runs(curve.points):
            _, colour = _mapping(panel, value) or ("", _NAMED["gray"])
            x, width = _across(begin, plot, span), _across(end, plot, span) - _across(begin, plot, span)
            place = f'x="{x:.1f}" y="{y + 2:.1f}" width="{width:.1f}" height="{room - 4:.1f}"'
            yield f'<rect {place} fill="{colour}" fill-opacity="0.7"/>'
    meanings = [_mapping(panel, value) for value in (0.0, 1.0)]
    yield from _legend_row([meaning for meaning in meanings if meaning], box.x, box.y + box.height)


def _runs(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float, float]]:
    """Yield from when to when a value was what."""
    for piece in _pieces(points):
        begin, held = piece[0]
        for time, value in piece:
            if value != held:
                yield begin, time, held
                begin, held = time, value
        yield begin, piece[-1][0], held


def _bands(plot: _Box, span: Span) -> Iterator[str]:
    for letter, band in zip("ABCDEF", span.bands, strict=False):
        x, end = _across(band.begin, plot, span), _across(band.end, plot, span)
        place = f'x="{x:.1f}" y="{plot.y}" width="{end - x:.1f}" height="{plot.height:.1f}"'
        yield f'<rect {place} fill="#8c959f" fill-opacity="0.14"/>'
        yield _text(x + 2, plot.y + 9, letter, size=9, colour=_QUIET)


def _legends(curves: Sequence[Curve], box: _Box) -> tuple[list[str], _Box]:
    """Return the names of the curves, in as many rows as they need, and what room is left above them."""
    entries = [(curve.legend, _COLOURS[n % len(_COLOURS)]) for n, curve in enumerate(curves)][:_LEGENDS]
    rows: list[list[tuple[str, str]]] = [[]]
    for name, colour in entries:
        cut = _cut(name, box.width - 24)
        if rows[-1] and sum(_length(text) + 24 for text, _ in (*rows[-1], (cut, colour))) > box.width:
            rows.append([])
        rows[-1].append((cut, colour))
    rows = rows[:_LEGEND_ROWS]
    parts = [
        part
        for number, row in enumerate(rows)
        for part in _legend_row(row, box.x, box.y + box.height - 14 * (len(rows) - 1 - number))
    ]
    return parts, _Box(box.x + 46, box.y, box.width - 46, box.height - 14 * len(rows) - 18)


def _legend_row(entries: Sequence[tuple[str, str]], x: float, y: float) -> Iterator[str]:
    for name, colour in entries:
        yield f'<rect x="{x:.1f}" y="{y - 6:.1f}" width="10" height="4" fill="{colour}"/>'
        yield _text(x + 14, y, name, size=10, colour=_QUIET)
        x += _length(name) + 24


def _ticks(values: Sequence[float], is_log: bool) -> list[float]:
    """Return round numbers around *values*, from 0 if not *is_log*."""
    if is_log:
        low = math.floor(math.log10(min((value for value in values if value > 0), default=1.0)))
        high = math.ceil(math.log10(max((*values, 10.0**low)) or 1.0))
        return [10.0**decade for decade in range(low, max(high, low + 1) + 1)]
    low_value, greatest = min((0.0, *values)), max((0.0, *values))
    step = _round_up((greatest - low_value) / 4 or 0.25)
    first, last = math.floor(low_value / step), math.ceil(greatest / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _round_up(value: float) -> float:
    decade = 10.0 ** math.floor(math.log10(value))
    return next(factor * decade for factor in (1, 2, 2.5, 5, 10) if factor * decade >= value * 0.999)


def _across(time: float, plot: _Box, span: Span) -> float:
    return plot.x + plot.width * (time - span.begin) / (span.end - span.begin)


def _height(value: float, ticks: Sequence[float], plot: _Box, is_log: bool) -> float:
    low, high, at = ticks[0], ticks[-1], value
    if is_log:
        low, high, at = (math.log10(max(one, ticks[0])) for one in (low, high, at))
    return plot.y + plot.height * (1 - (at - low) / (high - low))


def _mapping(panel: Panel, value: float) -> tuple[str, str] | None:
    """Return the word and the colour for *value*, if the panel has some."""
    for mapping in panel.document["fieldConfig"]["defaults"]["mappings"]:
        if found := mapping["options"].get(f"{value:g}"):
            return found["text"], _NAMED[found["color"]]
    return None


def _threshold(panel: Panel, value: float) -> str:
    steps = panel.document["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return next(
        _NAMED[step["color"]] for step in reversed(steps) if step["value"] is None or value >= step["value"]
    )


def _length(text: str) -> float:
    return 5.6 * len(text)


def _cut(text: str, room: float) -> str:
    fits = int(room / 5.6)
    return text if len(text) <= fits else f"{text[: fits - 1]}…"


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = _TEXT,
    size: int = 11,
) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
