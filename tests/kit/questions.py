"""Every question of the dashboards and the rules, as one puts it to a Prometheus."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.monitoring.observability import panels, rules

JOB = "traffic-manager"
# Four scrapes of two seconds, as Grafana chooses it, and some for a busy machine.
WINDOW = "15s"
_SELECTOR = re.compile(r"(?<![\w:.])(?:ALERTS|up|[a-z]+[_:][\w:]+)(?![\w:]|\s*\()(?:\{.*?\})?", re.DOTALL)
_NOT_ASKED = re.compile(r"\b(?:by|on|ignoring|group_left|group_right) \([^)]*\)|\[[^\]]*\]")


def chosen(question: str, window: str = WINDOW) -> str:
    """Return a panel's question for all nodes."""
    for name, value in (("$namespace", ".*"), ("$job", JOB), ("$node", ".*"), ("$__rate_interval", window)):
        question = question.replace(name, value)
    return question


def of_panels() -> Mapping[tuple[str, str, str], str]:
    """Return each question of a panel by its dashboard, title and legend."""
    return {
        (panel.dashboard, panel.title, legend): chosen(question)
        for panel in panels()
        for legend, question in panel.questions.items()
    }


def of_rules() -> list[tuple[str, str]]:
    """Return the name and the question of each rule that records; of an alert each selector, because as a whole it
    has no answer as long as all is well."""
    found = []
    for rule in rules():
        questions = selectors_in(rule.expr) if rule.is_alert else [rule.expr]
        found += [(rule.name, question) for question in questions]
    return found


def selectors_in(question: str) -> list[str]:
    """Return the series that *question* chooses."""
    return [match.strip() for match in _SELECTOR.findall(_NOT_ASKED.sub(" ", question))]


def legend_of(template: str, labels: Mapping[str, str]) -> str:
    """Return the name of a series as Grafana writes it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)
