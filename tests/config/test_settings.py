"""Settings: read once, checked all at once, told by variable name and never with a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from traffic_manager.config.loading import load_settings
from traffic_manager.config.settings import Settings, shown
from traffic_manager.errors import SettingsInvalid


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in Settings.section_types().values():
        for field in section.model_fields:
            monkeypatch.delenv(section.variable(field), raising=False)


def problems_of(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(env_file=None)
    return "\n".join(refused.value.problems)


def test_without_any_variable_the_embedded_default_is_complete() -> None:
    settings = load_settings(env_file=None)
    assert (settings.db.is_postgres, settings.redis.host, settings.kafka.bootstrap_servers) == (
        False,
        None,
        None,
    )
    assert (settings.api.port, settings.app.log_level) == (8000, "INFO")


def test_every_problem_is_reported_at_once_by_variable_name(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = problems_of(
        monkeypatch, DB_PORT="none", API_WORKERS="0", LOG_LEVEL="loud", CACHE_POSITIVE_TTL="-1", REDIS_DB="x"
    )
    for variable in ("DB_PORT", "API_WORKERS", "LOG_LEVEL", "CACHE_POSITIVE_TTL", "REDIS_DB"):
        assert f"{variable}:" in problems


def test_problems_never_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = problems_of(monkeypatch, DB_PASSWORD="hunter2-hunter2", DB_PORT="hunter2-hunter2")  # a mix-up
    assert "hunter2" not in problems


def test_secret_comes_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    monkeypatch.setenv("DB_PASSWORD_FILE", str(tmp_path / "secret"))
    password = load_settings(env_file=None).db.password
    assert password is not None
    assert password.get_secret_value() == "from-a-file"


def test_secret_file_that_cannot_be_read_is_told_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "REDIS_PASSWORD_FILE: cannot be read" in problems_of(monkeypatch, REDIS_PASSWORD_FILE="/nowhere")


def test_secret_file_that_is_no_text_is_told_by_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    problems = problems_of(monkeypatch, AUTH_PEPPER_FILE=str(tmp_path / "secret"))
    assert "AUTH_PEPPER_FILE: must hold text in UTF-8" in problems


def test_secret_file_may_be_named_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file")
    (tmp_path / ".env").write_text(f"DB_PASSWORD_FILE={tmp_path / 'secret'}\n")
    password = load_settings(tmp_path / ".env").db.password
    assert password is not None
    assert password.get_secret_value() == "from-a-file"


def test_contradiction_is_told_together_with_wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = problems_of(monkeypatch, REDIS_PORT="none", API_WORKERS="2")
    assert "REDIS_PORT:" in problems
    assert "API_WORKERS:" in problems


def test_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_PORT=9001\nLOG_LEVEL=DEBUG\n")
    monkeypatch.setenv("API_PORT", "9002")
    settings = load_settings(tmp_path / ".env")
    assert (settings.api.port, settings.app.log_level) == (9002, "DEBUG")


def test_several_workers_need_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "API_WORKERS: must be 1 with SQLite" in problems_of(monkeypatch, API_WORKERS="2")


def test_pool_minimum_may_not_exceed_its_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "DB_POOL_MIN" in problems_of(monkeypatch, DB_POOL_MIN="20", DB_POOL_MAX="10")


def test_sasl_needs_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "KAFKA_SASL_USERNAME" in problems_of(monkeypatch, KAFKA_SECURITY_PROTOCOL="SASL_SSL")


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_sample_password_is_refused_outside_development(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = problems_of(monkeypatch, ENVIRONMENT=environment, DB_HOST="db", DB_PASSWORD="your_password")
    assert problems == "DB_PASSWORD: is a sample value; set a secret of your own"


@pytest.mark.parametrize(
    ("environment", "as_json", "drain_s", "serves_docs"),
    [("development", False, 0.0, True), ("staging", True, 5.0, True), ("production", True, 5.0, False)],
)
def test_environment_sets_the_documented_defaults(
    environment: str, as_json: bool, drain_s: float, serves_docs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    settings = load_settings(env_file=None)
    found = (settings.app.logs_as_json, settings.app.drain_s, settings.serves_docs)
    assert found == (as_json, drain_s, serves_docs)


def test_shown_settings_hide_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2-hunter2")
    values = shown(load_settings(env_file=None))
    assert values["KAFKA_SASL_PASSWORD"] == "***"
    assert "hunter2" not in str(values)
