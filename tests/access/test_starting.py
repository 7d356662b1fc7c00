"""What a server refuses to start with, and where it listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.access.issue import PEPPER
from tests.node import Node
from traffic_manager.config.loading import load_settings
from traffic_manager.config.settings import Settings
from traffic_manager.errors import SettingsInvalid


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENVIRONMENT", "AUTH_MODE", "AUTH_PEPPER", "API_HOST"):
        monkeypatch.delenv(name, raising=False)


def settings_with(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    """Return the settings of a server that may start with these variables. Raises SettingsInvalid."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(env_file=None)
    settings.check_serving()
    return settings


def test_development_is_open_and_only_this_machine_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_with(monkeypatch)
    assert (settings.is_open, settings.host) == (True, "127.0.0.1")


def test_open_server_listens_elsewhere_only_if_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_with(monkeypatch, API_HOST="0.0.0.0")
    assert (settings.is_open, settings.host) == (True, "0.0.0.0")


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
def test_guarded_server_listens_everywhere(monkeypatch: pytest.MonkeyPatch, environment: str) -> None:
    mode = {"AUTH_MODE": "required"} if environment == "development" else {}
    settings = settings_with(monkeypatch, ENVIRONMENT=environment, AUTH_PEPPER=PEPPER, **mode)
    assert (settings.is_open, settings.host) == (False, "0.0.0.0")


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "AUTH_PEPPER: must be set"),
        ({"AUTH_MODE": "open"}, "AUTH_MODE: open is for development only"),
        ({"AUTH_MODE": "open", "AUTH_PEPPER": PEPPER}, "AUTH_MODE: open is for development only"),
        ({"AUTH_PEPPER": "changeme" * 4}, "AUTH_PEPPER: is a sample value"),
        ({"AUTH_PEPPER": "0" * 64}, "AUTH_PEPPER: is a sample value"),
        ({"AUTH_PEPPER": "secret"}, "AUTH_PEPPER: .*at least 32"),
        ({"AUTH_MODE": "off", "AUTH_PEPPER": PEPPER}, "AUTH_MODE: "),
    ],
)
def test_start_without_good_protection_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: str, variables: dict[str, str], reason: str
) -> None:
    with pytest.raises(SettingsInvalid, match=reason) as refused:
        settings_with(monkeypatch, ENVIRONMENT=environment, **variables)
    assert all(variables.get("AUTH_PEPPER", "\0") not in problem for problem in refused.value.problems)


def test_guarded_development_needs_a_pepper_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsInvalid, match="AUTH_PEPPER: must be set"):
        settings_with(monkeypatch, AUTH_MODE="required")


def test_refusal_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    with Node(tmp_path, {"ENVIRONMENT": "production"}) as node:
        node.start(wait_ready=False)
        assert node.wait_for_exit() == 1
        assert "AUTH_PEPPER: must be set with AUTH_MODE=required" in node.log()
