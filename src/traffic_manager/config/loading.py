"""Reads the settings of this process, once, and tells every problem at once by the variable's name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from traffic_manager.config.settings import (
    ApiSettings,
    AppSettings,
    AuthSettings,
    DbSettings,
    Section,
    Settings,
)
from traffic_manager.errors import SettingsInvalid

# Values that stand in examples, the specification's too: nobody's production runs on them.
SAMPLE_SECRETS = frozenset(
    {
        *("your_password", "password", "changeme", "change-me", "secret", "postgres", "app_password"),
        *("0" * 32, "0" * 64, "changeme" * 4, "0123456789abcdef" * 2, "0123456789abcdef" * 4),
    }
)


def load_settings(env_file: Path | None = Path(".env")) -> Settings:
    """Return the settings of this process. Raises SettingsInvalid with every problem."""
    sections: dict[str, Section] = {}
    problems: list[str] = []
    given = {**(dotenv_values(env_file) if env_file else {}), **os.environ}
    for name, section in Settings.section_types().items():
        from_files, unreadable = _secret_files(section, given)
        problems += unreadable
        try:
            # BaseSettings takes its own options as underscored arguments that mypy does not see.
            sections[name] = section(_env_file=env_file, **from_files)  # type: ignore[call-arg]
        except ValidationError as error:
            problems += _problems(section, error)
    problems += _contradictions(sections) + _weaknesses(sections)
    if problems:
        raise SettingsInvalid(problems)
    return Settings.model_validate(sections)


def _secret_files(
    section: type[Section], given: Mapping[str, str | None]
) -> tuple[dict[str, str], list[str]]:
    """Return the secrets given as `<NAME>_FILE`, as container platforms mount them, and what is wrong."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for field in section.secret_fields():
        if path := given.get(f"{section.variable(field)}_FILE"):
            try:
                found[field] = Path(path).read_text().rstrip("\r\n")
            except OSError as error:
                problems.append(f"{section.variable(field)}_FILE: cannot be read: {error.strerror}")
            except UnicodeDecodeError:
                problems.append(f"{section.variable(field)}_FILE: must hold text in UTF-8")
    return found, problems


def _problems(section: type[Section], error: ValidationError) -> list[str]:
    found = []
    for item in error.errors(include_url=False, include_input=False):
        message = item["msg"].removeprefix("Value error, ")
        found.append(f"{section.variable(str(item['loc'][0]))}: {message}" if item["loc"] else message)
    return found


def _contradictions(sections: Mapping[str, Section]) -> list[str]:
    api, db = sections.get("api"), sections.get("db")
    if isinstance(api, ApiSettings) and isinstance(db, DbSettings) and api.workers > 1 and not db.is_postgres:
        return ["API_WORKERS: must be 1 with SQLite; set DB_HOST to use PostgreSQL with more workers"]
    return []


def _weaknesses(sections: Mapping[str, Section]) -> list[str]:
    """Return what development may do, but staging and production may not."""
    app = sections.get("app")
    if not isinstance(app, AppSettings) or app.is_development:
        return []
    auth = sections.get("auth")
    is_open = isinstance(auth, AuthSettings) and auth.mode == "open"
    found = ["AUTH_MODE: open is for development only"] if is_open else []
    return found + [
        f"{variable}: is a sample value; set a secret of your own"
        for variable, secret in _secrets_of(sections.values()).items()
        if secret in SAMPLE_SECRETS
    ]


def _secrets_of(sections: Iterable[Section]) -> Mapping[str, str]:
    """Return every secret that is set, by variable: for checks, never to be shown."""
    found = {}
    for section in sections:
        for field, value in section:
            if isinstance(value, SecretStr):
                found[section.variable(field)] = value.get_secret_value()
    return found


def without_secrets(text: str, env_file: Path | None = Path(".env")) -> str:
    """Return *text* with `***` for every secret that this process was given, whether its settings are good or not: as
    it stands, and as it would stand in JSON or in a URL."""
    for secret in sorted(_given_secrets(env_file), key=len, reverse=True):
        for written in (secret, json.dumps(secret)[1:-1], quote(secret, safe="")):
            text = text.replace(written, "***")
    return text


def _given_secrets(env_file: Path | None) -> set[str]:
    given = {**(dotenv_values(env_file) if env_file else {}), **os.environ}
    # The command line's own key is no setting.
    found = {given.get("TM_API_KEY")}
    for section in Settings.section_types().values():
        found |= set(_secret_files(section, given)[0].values())
        found |= {given.get(section.variable(field)) for field in section.secret_fields()}
    return {secret for secret in found if secret}
