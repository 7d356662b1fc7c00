"""`TLS_*`: the server's certificate, and whose client certificates it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict as ConfigDict

from traffic_manager.config.section import Section


class TlsSettings(Section):
    """TLS of the HTTP server. Unset certificate: plain HTTP."""

    model_config = ConfigDict(env_prefix="TLS_")

    cert_file: Path | None = Field(
        None,
        description="File of the server's certificate in PEM, with the intermediate ones after it. Set: HTTPS, "
        "TLS 1.2 or later, and nothing else on that port. A renewed file is taken up within seconds.",
    )
    key_file: Path | None = Field(
        None, description="File of that certificate's private key in PEM, not encrypted."
    )
    client_ca_file: Path | None = Field(
        None,
        description="File of the authorities, in PEM, whose client certificates are taken. Unset: nobody's.",
    )
    client_auth: Literal["optional", "required"] = Field(
        "optional",
        description="`required`: whoever shows no such certificate gets no connection, probes of health neither.",
    )
    client_grants_file: Path | None = Field(
        None,
        description="JSON file that says what the names in client certificates may do; see docs/security.md. Unset: "
        "a certificate opens a connection and is no credential.",
    )

    @property
    def is_on(self) -> bool:
        """True if the server speaks TLS."""
        return self.cert_file is not None

    @model_validator(mode="after")
    def _check_files(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("TLS_CERT_FILE, TLS_KEY_FILE: must be set together")
        if self.client_ca_file and not self.is_on:
            raise ValueError("TLS_CLIENT_CA_FILE: must be set with TLS_CERT_FILE")
        if self.client_ca_file is None and self.client_auth == "required":
            raise ValueError("TLS_CLIENT_AUTH: required must be set with TLS_CLIENT_CA_FILE")
        if self.client_ca_file is None and self.client_grants_file:
            raise ValueError("TLS_CLIENT_GRANTS_FILE: must be set with TLS_CLIENT_CA_FILE")
        return self
