"""The charts as SVG, written by hand: bars, and lines over a few named places. Legible on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from statistics import median

from benchmarks.figures import Series

_WIDTH = 760
_BAR, _GAP, _NAMES = 22, 10, 250
_LEFT, _RIGHT, _TOP, _PLOT, _BOTTOM = 70, 30, 60, 260, 50
# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_TEXT, _FAINT = "#1f2328", "#d0d7de"


def bars(title: str, series: Sequence[Series]) -> str:
    """Return a bar for each series, as long as its only value; longest first."""
    longest_first = sorted(series, key=_value, reverse=True)
    room = _WIDTH - _NAMES - 90
    parts = [_text(12, 24, title, weight="bold")]
    for number, one in enumerate(longest_first):
        y = 44 + number * (_BAR + _GAP)
        length = max(1.0, room * _value(one) / _value(longest_first[0]))
        colour = _COLOURS[0] if one.name.startswith("ours") else "#8c959f"
        parts.append(_text(_NAMES - 8, y + 16, one.name, anchor="end"))
        parts.append(f'<rect x="{_NAMES}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>')
        parts.append(_text(_NAMES + length + 6, y + 16, f"{_value(one):,.0f}"))
    return _svg(44 + len(series) * (_BAR + _GAP) + 6, parts)


def lines(title: str, x_title: str, y_title: str, series: Sequence[Series], *, is_log: bool) -> str:
    """Return a line for each series. The x values are places beside each other, whatever lies between them."""
    places = sorted({x for one in series for x, _ in one.points})
    ticks = _ticks([y for one in series for _, y in one.points], is_log)
    parts = [_text(12, 24, title, weight="bold"), *_axes(places, ticks, x_title, y_title, is_log)]
    x_legend = 12.0
    for number, one in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        dots = [(_x(places.index(x), len(places)), _y(y, ticks, is_log)) for x, y in one.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in dots]
        parts.append(f'<rect x="{x_legend}" y="37" width="14" height="4" fill="{colour}"/>')
        parts.append(_text(x_legend + 19, 44, one.name))
        x_legend += 40 + 7 * len(one.name)
    return _svg(_TOP + _PLOT + _BOTTOM, parts)


def _axes(
    places: Sequence[float], ticks: Sequence[float], x_title: str, y_title: str, is_log: bool
) -> Iterator[str]:
    for tick in ticks:
        y = _y(tick, ticks, is_log)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_FAINT}"/>'
        yield _text(_LEFT - 8, y + 4, f"{tick:,g}", anchor="end")
    for number, place in enumerate(places):
        yield _text(_x(number, len(places)), _TOP + _PLOT + 18, f"{place:,.10g}", anchor="middle")
    yield _text(_WIDTH / 2, _TOP + _PLOT + 40, x_title, anchor="middle")
    middle = _TOP + _PLOT / 2
    turned = f'transform="rotate(-90 16 {middle})"'
    yield _text(16, middle, y_title, anchor="middle", more=turned)


def _ticks(values: Sequence[float], is_log: bool) -> list[float]:
    """Return round numbers from below the least value (from 0 if not *is_log*) to above the greatest."""
    greatest = max(values)
    if not is_log:
        step = _round_up(greatest / 5)
        return [step * number for number in range(math.ceil(greatest / step) + 1)]
    decades = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(greatest)) + 1)
    candidates = [round(factor * 10.0**decade, 9) for decade in decades for factor in (1, 2, 5)]
    below = max(tick for tick in candidates if tick <= min(values))
    above = min(tick for tick in candidates if tick >= greatest)
    return [tick for tick in candidates if below <= tick <= above]


def _round_up(value: float) -> float:
    decade = 10.0 ** math.floor(math.log10(value))
    return next(factor * decade for factor in (1, 2, 5, 10) if factor * decade >= value)


def _x(number: int, count: int) -> float:
    room = _WIDTH - _LEFT - _RIGHT
    return _LEFT + room * (number + 0.5) / count


def _y(value: float, ticks: Sequence[float], is_log: bool) -> float:
    low, high, at = (
        (math.log10(v) for v in (ticks[0], ticks[-1], value)) if is_log else (ticks[0], ticks[-1], value)
    )
    return _TOP + _PLOT * (1 - (at - low) / (high - low)) if high > low else _TOP + _PLOT / 2


def _value(one: Series) -> float:
    return median(y for _, y in one.points)


def _text(
    x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", more: str = ""
) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{_TEXT}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style} {more}>{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    font = 'font-family="system-ui, sans-serif" font-size="13"'
    sheet = f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', sheet, *parts, "</svg>", ""])
