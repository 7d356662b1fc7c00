"""What `deploy/prometheus` gives to Prometheus: promtool takes it; every alert fires and keeps still in a case."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.monitoring.observability import (
    PROMETHEUS,
    ROOT,
    Rule,
    case_files,
    cases,
    is_known,
    metrics_in,
    names_in,
    panels,
    rule_files,
    rules,
)
from tests.servers import programs

ALERTS = {rule.name: rule for rule in rules() if rule.is_alert}
RECORDED = {rule.name for rule in rules() if not rule.is_alert}


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return programs.prometheus().with_name("promtool")
    except programs.NotInstalled as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: in CI every tool must be there")
        pytest.skip(f"NEEDS A REAL TOOL: {missing}")


def run(promtool: Path, *arguments: str | Path, folder: Path = PROMETHEUS) -> str:
    done = subprocess.run(
        [promtool, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_configuration_is_one(promtool: Path) -> None:
    # Where the key lies on this machine nobody knows.
    run(promtool, "check", "config", "--syntax-only", "prometheus.yml")


def test_rules_are_correct_and_none_is_there_twice(promtool: Path) -> None:
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *rule_files())


@pytest.mark.parametrize("path", case_files(), ids=lambda path: path.stem)
def test_alerts_fire_and_keep_still_as_their_cases_say(promtool: Path, path: Path) -> None:
    run(promtool, "test", "rules", path.name, folder=path.parent)


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(name: str) -> None:
    assert {case.is_firing for case in cases() if case.alert == name} == {True, False}


@pytest.mark.parametrize("name", ALERTS)
def test_alert_keeps_still_though_all_that_it_asks_for_is_there(name: str) -> None:
    """Else the case would hold for want of anything to compare."""
    asked = {metric for metric in metrics_in(ALERTS[name].expr) if not _is_of_another_objective(metric, name)}
    assert any(asked <= case.metrics for case in cases() if case.alert == name and not case.is_firing)


def _is_of_another_objective(metric: str, alert: str) -> bool:
    """The alerts of all objectives are the same; their cases take that of resolves."""
    return "Budget" in alert and metric != "api_requests_total"


def test_case_names_an_alert_that_there_is() -> None:
    assert {case.alert for case in cases()} <= set(ALERTS)


def test_rules_ask_for_metrics_that_there_are() -> None:
    asked = {name: metric for rule in rules() for name in [rule.name] for metric in metrics_in(rule.expr)}
    assert {name: metric for name, metric in asked.items() if not is_known(metric)} == {}


def test_whatever_is_recorded_is_asked_for() -> None:
    questions = [rule.expr for rule in rules()] + [q for panel in panels() for q in panel.questions.values()]
    assert RECORDED - {name for question in questions for name in names_in(question)} == set()


@pytest.mark.parametrize("rule", ALERTS.values(), ids=lambda rule: rule.name)
def test_alert_says_how_urgent_it_is_and_leads_to_a_section_that_is_there(rule: Rule) -> None:
    assert rule.labels["severity"] in {"critical", "warning"}
    assert rule.annotations["summary"]
    assert rule.annotations["description"]
    page, _, anchor = rule.annotations["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert [heading for heading in headings if heading.lower() == anchor] == [rule.name]


def test_selectors_of_names_that_others_use_too_are_narrowed_to_our_jobs() -> None:
    """`api_requests_total` may be anybody's; what begins with `tm_` is ours."""
    bare = r"(?<![\w:])(?:resolve|write|kafka|db|api|cache|application)_\w+(?!\w)(?!\{\s*job=~)"
    assert [rule.name for rule in rules() if re.search(bare, re.sub(r'"[^"]*"', "", rule.expr))] == []
