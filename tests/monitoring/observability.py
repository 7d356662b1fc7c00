"""Reads what `deploy` has for Prometheus and Grafana: rules, their cases, panels, and what each asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.monitoring.exposition import types
from traffic_manager.monitoring.metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
OURS = types(Metrics().render())
_OF_PROMETHEUS = frozenset({"up", "ALERTS"})
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "sum", "max", "min", "count"})
# What stands in a question and is no metric: labels, texts, ranges, and functions before their parenthesis.
_NO_METRIC = re.compile(
    r"""\{.*?\}|".*?"|\[.*?\]|\b(by|on|ignoring|group_left|group_right)\s*\(.*?\)|\w+\s*(?=\()""", re.DOTALL
)
_IDENTIFIER = re.compile(r"(?<![\w.])[a-zA-Z_][\w:]*")


@dataclass(frozen=True)
class Rule:
    """A rule: an alert, or what is recorded under *name*."""

    name: str
    expr: str
    is_alert: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """One moment of a test of rules: the alert fires or does not, given *metrics*."""

    alert: str
    is_firing: bool
    metrics: frozenset[str]


@dataclass(frozen=True)
class Panel:
    """One panel of a dashboard, and its questions."""

    dashboard: str
    title: str
    kind: str
    unit: str
    description: str
    questions: Mapping[str, str]  # by their legends
    place: tuple[int, int, int, int]  # left, top, width, height
    document: Any  # Any: as it stands in the file


@cache
def rules() -> list[Rule]:
    """Return every rule, in the order of the files."""
    groups = [group for path in rule_files() for group in _read(path)["groups"]]
    return [
        Rule(
            rule.get("alert") or rule["record"],
            rule["expr"],
            "alert" in rule,
            rule.get("labels", {}),
            rule.get("annotations", {}),
        )
        for group in groups
        for rule in group["rules"]
    ]


def rule_files() -> list[Path]:
    return sorted((PROMETHEUS / "rules").glob("*.yml"))


def case_files() -> list[Path]:
    return sorted((PROMETHEUS / "tests").glob("*.yml"))


@cache
def cases() -> list[Case]:
    """Return what the tests of rules expect."""
    tests = [test for path in case_files() for test in _read(path)["tests"]]
    return [
        Case(
            case["alertname"],
            bool(case["exp_alerts"]),
            frozenset(_family(series["series"].partition("{")[0]) for series in test["input_series"]),
        )
        for test in tests
        for case in test["alert_rule_test"]
    ]


@cache
def panels() -> list[Panel]:
    """Return the panels of all dashboards."""
    return [
        Panel(
            path.stem,
            panel["title"],
            panel["type"],
            panel["fieldConfig"]["defaults"]["unit"],
            panel["description"],
            {target["legendFormat"]: target["expr"] for target in panel["targets"]},
            (panel["gridPos"]["x"], panel["gridPos"]["y"], panel["gridPos"]["w"], panel["gridPos"]["h"]),
            panel,
        )
        for path in dashboard_files()
        for panel in json.loads(path.read_text())["panels"]
    ]


def dashboard_files() -> list[Path]:
    return sorted(DASHBOARDS.glob("*.json"))


def names_in(question: str) -> frozenset[str]:
    """Return what *question* asks for, metrics and what rules record; a histogram by its own name."""
    words = frozenset(_IDENTIFIER.findall(_NO_METRIC.sub(" ", question))) - _WORDS
    return frozenset(_family(word) for word in words)


def metrics_in(question: str) -> frozenset[str]:
    """Return the metrics that *question* rests on, through whatever rules record."""
    recorded = _recorded()
    found: set[str] = set()
    for name in names_in(question):
        if name in recorded:
            found |= {metric for expr in recorded[name] for metric in metrics_in(expr)}
        else:
            found.add(name)
    return frozenset(found)


def is_known(name: str) -> bool:
    """Return whether there is such a metric."""
    return name in OURS or name in _OF_PROMETHEUS


@cache
def _recorded() -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule in rules():
        if not rule.is_alert:
            found.setdefault(rule.name, []).append(rule.expr)
    return found


def _family(name: str) -> str:
    family = re.sub("_(bucket|count|sum)$", "", name)
    return family if OURS.get(family) == "histogram" else name


def _read(path: Path) -> Any:  # Any: YAML
    return yaml.safe_load(path.read_text())
