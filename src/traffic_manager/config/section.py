"""What a section of the settings is, and the types that several of them have fields of."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode
from pydantic_settings import SettingsConfigDict as ConfigDict


def _split(value: Any) -> Any:  # Any: whatever the source gave, pydantic checks it next
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value)
        except ValueError as error:
            raise ValueError(f"{error}; write 10.0.0.0/8 or 2001:db8::/32") from error
    return values


Networks = Annotated[Words, AfterValidator(_networks)]
Port = Annotated[int, Field(ge=1, le=65535)]
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class Section(BaseSettings):
    """The settings of one room. The variable of a field is PREFIX + FIELD in capitals."""

    model_config = ConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    @classmethod
    def variable(cls, field_name: str) -> str:
        """Return the environment variable of a field."""
        return f"{cls.model_config.get('env_prefix', '')}{field_name}".upper()

    @classmethod
    def secret_fields(cls) -> list[str]:
        """Return the names of the fields whose values are never shown."""
        return [name for name, about in cls.model_fields.items() if "SecretStr" in str(about.annotation)]
