"""The chart of `deploy/helm` keeps up with the settings, the rules and the version; no Helm is needed to see that."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

import traffic_manager
from traffic_manager.config.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm"
PROPERTIES = json.loads((CHART / "values.schema.json").read_text())["properties"]
# Set from other values, or fixed.
# Beside those of OpenTelemetry, of which its library has more than we know.
OF_THE_CHART = {"API_PORT", "API_WORKERS", "DRAIN_SECONDS", "SNAPSHOT_PATH", "DB_PATH"}


def settings_of_a_server() -> dict[str, str]:
    """Return the type of each setting by its variable, but for those that no server needs."""
    sections = [section for name, section in Settings.section_types().items() if name != "audit"]
    return {
        section.variable(field): str(about.annotation)
        for section in sections
        for field, about in section.model_fields.items()
        if not section.variable(field).startswith("OTEL_")
    }


def test_values_take_every_setting_as_what_it_is() -> None:
    known = {name: kind for name, kind in settings_of_a_server().items() if name not in OF_THE_CHART}
    values, mounts = (_but_for_opentelemetry(PROPERTIES[name]) for name in ("settings", "files"))
    files = {name for name, kind in known.items() if "SecretStr" in kind or "Path" in kind}
    assert sorted(mounts) == sorted(files)
    assert sorted(values) == sorted(known.keys() - files)


def _but_for_opentelemetry(schema: dict[str, dict[str, object]]) -> list[str]:
    return [name for name in schema["properties"] if not name.startswith("OTEL_")]


def test_no_setting_comes_as_something_else() -> None:
    named = PROPERTIES["extraEnv"]["items"]["properties"]["name"]["not"]["pattern"]
    assert [name for name in settings_of_a_server() if not re.search(named, name)] == []
    assert not re.search(named, "HTTPS_PROXY")


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


def test_pod_runs_as_the_image_is_made() -> None:
    image = (DEPLOY.parent / "Dockerfile").read_text()
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    security = yaml.safe_load((CHART / "values.yaml").read_text())["podSecurityContext"]
    (user, group, folder) = re.findall(r"^USER (\d+):(\d+)\nWORKDIR (\S+)$", image, re.MULTILINE)[0]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))
    assert f"workingDir: {folder}\n" in templates


def test_default_values_are_all_in_the_schema() -> None:
    assert yaml.safe_load((CHART / "values.yaml").read_text()).keys() <= PROPERTIES.keys()
