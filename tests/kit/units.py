"""Figures as a dashboard writes them."""

from __future__ import annotations

from collections.abc import Sequence

_TIMES = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_MANY = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def written(value: float, unit: str) -> str:
    """Return *value* in one of Grafana's units: `s`, `percentunit`, `reqps`, `ops`, `none` or `short`."""
    if unit == "s":
        return _scaled(value, _TIMES, "s")
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    text = _scaled(value, _MANY, "")
    return f"{text}/s" if unit in ("reqps", "ops") else text


def _scaled(value: float, steps: Sequence[tuple[float, str]], otherwise: str) -> str:
    for size, name in steps:
        if abs(value) >= size:
            return f"{value / size:.3g} {name}".rstrip()
    return f"{value:.3g} {otherwise}".rstrip()
