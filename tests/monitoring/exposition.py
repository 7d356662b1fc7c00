"""Reads what `Metrics.render` wrote."""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"(?P<name>[a-z_]+)(\{(?P<labels>.*)\})? (?P<value>\S+)")


def values(text: bytes) -> dict[str, float]:
    """Return every sample by its text, such as `api_requests_total{method="GET"}`."""
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {sample: float(value) for sample, value in (line.rsplit(" ", 1) for line in lines)}


def types(text: bytes) -> dict[str, str]:
    """Return the type of every metric by its name."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text.decode(), re.MULTILINE))


def labels(text: bytes) -> dict[str, frozenset[str]]:
    """Return the names of the labels of every metric, `le` left out."""
    found = {}
    for line in text.decode().splitlines():
        if match := _SAMPLE.fullmatch(line):
            metric = re.sub("_(bucket|count|sum)$", "", match["name"])
            found[metric] = frozenset(re.findall(r'(\w+)="', match["labels"] or "")) - {"le"}
    return found
