"""The chart of `deploy/helm` keeps up with the settings, the rules and the version; no Helm is needed to see that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import yaml

import traffic_manager
from traffic_manager.config.settings import Section, Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm"
PROPERTIES = json.loads((CHART / "values.schema.json").read_text())["properties"]
# Set from other values, or fixed.
OF_THE_CHART = {"API_PORT", "API_WORKERS", "DRAIN_SECONDS", "SNAPSHOT_PATH", "DB_PATH"}


def settings_of_a_server() -> dict[str, str]:
    """Return the type of each setting by its variable, but for those that no server needs."""
    sections = [
        cast("type[Section]", Settings.model_fields[name].annotation)
        for name in Settings.sections
        if name != "audit"
    ]
    return {
        section.variable(field): str(about.annotation)
        for section in sections
        for field, about in section.model_fields.items()
    }


def test_values_take_every_setting_as_what_it_is() -> None:
    known = {name: kind for name, kind in settings_of_a_server().items() if name not in OF_THE_CHART}
    files = {name for name, kind in known.items() if "SecretStr" in kind or "Path" in kind}
    assert sorted(PROPERTIES["files"]["properties"]) == sorted(files)
    assert sorted(PROPERTIES["settings"]["properties"]) == sorted(known.keys() - files)


def test_migration_takes_every_plain_setting_of_the_database() -> None:
    wanted = {name for name in PROPERTIES["settings"]["properties"] if name.startswith("DB_")}
    assert set(PROPERTIES["migration"]["properties"]["settings"]["properties"]) == wanted


def test_rules_are_those_of_prometheus() -> None:
    """Where this fails: `cp deploy/prometheus/rules/*.yml deploy/helm/rules/`."""
    ours, theirs = (
        {path.name: path.read_text() for path in folder.glob("*.yml")}
        for folder in (CHART / "rules", DEPLOY / "prometheus" / "rules")
    )
    assert theirs
    assert ours == theirs


def test_chart_is_of_this_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == traffic_manager.__version__


def test_default_values_are_all_in_the_schema() -> None:
    assert yaml.safe_load((CHART / "values.yaml").read_text()).keys() <= PROPERTIES.keys()
