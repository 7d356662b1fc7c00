"""`AUTH_*`: whether callers need a credential, and what credentials are checked with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Section


class AuthSettings(Section):
    """Who may call."""

    model_config = ConfigDict(env_prefix="AUTH_")

    mode: Literal["open", "required"] | None = Field(
        None,
        description="`required`: whoever calls must show a credential; `open`: nobody is asked, and everybody may do "
        "everything; for development only. Default: `open` in development, else `required`.",
    )
    pepper: Annotated[SecretStr, Field(min_length=32)] | None = Field(
        None,
        description="What stored digests of keys are keyed with: at least 32 characters, as from "
        "`openssl rand -hex 32`, the same on every node. Changing it ends every key.",
    )
    issuers_file: Path | None = Field(
        None,
        description="JSON file of the identity providers whose tokens (JWT) are taken, and of what their claims "
        "permit; see docs/security.md. Unset: no tokens are taken.",
    )
    metrics: Literal["required", "open"] = Field(
        "required", description="`open`: `/metrics` asks for no key, whatever `AUTH_MODE` is."
    )
