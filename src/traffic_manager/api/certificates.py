"""The files of TLS: the server's certificate, and whose client certificates are taken. Read at start, where a bad one
is a reason not to start, and again when they have changed, where it is not: what was good goes on.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog
from cryptography import x509

from traffic_manager.access.client_names import GrantsByName, grants_by_name
from traffic_manager.config.settings import TlsSettings
from traffic_manager.errors import StartRefused
from traffic_manager.monitoring.label_values import Outcome
from traffic_manager.monitoring.metrics import Metrics

_LOOK_EVERY_S = 2.0
# TLS 1.2 with what 1.3 has as well: keys that are forgotten, and ciphers that notice an edit.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

Stamp = tuple[tuple[int, int, int] | None, ...]

log = structlog.get_logger(__name__)


class Loaded(NamedTuple):
    """What the files hold: the *context* of new handshakes, the *grants* of names in client certificates, when the
    server's own certificate ends (seconds since 1970)."""

    context: ssl.SSLContext
    grants: GrantsByName
    expires_at: float


class Certificates:
    """The files of *settings*, loaded. Raises StartRefused if one is bad."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._stamp = _stamp_of(settings)
        self.loaded = load(settings)

    async def watch(self, metrics: Metrics, changed: Callable[[Loaded], None]) -> None:
        """Take changed files up, for ever, and tell *changed*, for the first time at once."""
        self._tell(metrics, changed)
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            if await asyncio.to_thread(self._has_changed):
                await self._reload(metrics, changed)

    async def _reload(self, metrics: Metrics, changed: Callable[[Loaded], None]) -> None:
        try:
            self.loaded = await asyncio.to_thread(load, self._settings)
        except StartRefused as error:
            # Perhaps one file is new and the other is not yet. Tried again when they change once more.
            metrics.tm_tls_reloads_total.labels(Outcome.FAILED).inc()
            log.error("tls_reload_failed", reason=str(error))
            return
        metrics.tm_tls_reloads_total.labels(Outcome.OK).inc()
        log.info("tls_reloaded", expires_at=self.loaded.expires_at)
        self._tell(metrics, changed)

    def _tell(self, metrics: Metrics, changed: Callable[[Loaded], None]) -> None:
        metrics.tm_tls_certificate_expires_seconds.set(self.loaded.expires_at)
        changed(self.loaded)

    def _has_changed(self) -> bool:
        before, self._stamp = self._stamp, _stamp_of(self._settings)
        return self._stamp != before


def load(settings: TlsSettings) -> Loaded:
    """Return what the files of *settings* hold. Raises StartRefused that names the setting of a bad one."""
    certificate = _first_certificate(settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, settings)
    if settings.client_ca_file:
        _load_authorities(context, settings.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_auth == "required" else ssl.CERT_OPTIONAL
    return Loaded(context, _load_grants(settings), certificate.not_valid_after_utc.timestamp())


def _first_certificate(settings: TlsSettings) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_read("TLS_CERT_FILE", settings.cert_file))[0]
    except ValueError:
        raise StartRefused("TLS_CERT_FILE: holds no certificate in PEM") from None


def _load_pair(context: ssl.SSLContext, settings: TlsSettings) -> None:
    _read("TLS_KEY_FILE", settings.key_file)
    try:
        # With an empty password an encrypted key is an error; else OpenSSL would ask at the terminal.
        context.load_cert_chain(str(settings.cert_file), str(settings.key_file), password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise StartRefused("TLS_KEY_FILE: is not the key of the certificate in TLS_CERT_FILE") from None
        raise StartRefused(
            "TLS_KEY_FILE: holds no key in PEM, or an encrypted one, or TLS does not take the certificate in "
            f"TLS_CERT_FILE: {getattr(error, 'reason', None) or error}"
        ) from None


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    _read("TLS_CLIENT_CA_FILE", file)
    try:
        context.load_verify_locations(str(file))
    except (ssl.SSLError, OSError):
        raise StartRefused("TLS_CLIENT_CA_FILE: holds no certificate in PEM") from None


def _load_grants(settings: TlsSettings) -> GrantsByName:
    if settings.client_grants_file is None:
        return {}
    try:
        return grants_by_name(_read("TLS_CLIENT_GRANTS_FILE", settings.client_grants_file).decode())
    except (ValueError, RecursionError) as error:
        raise StartRefused(f"TLS_CLIENT_GRANTS_FILE: {error}") from None


def _read(variable: str, file: Path | None) -> bytes:
    assert file is not None  # noqa: S101 the settings were checked
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartRefused(f"{variable}: cannot be read: {error.strerror}") from None


def _stamp_of(settings: TlsSettings) -> Stamp:
    files = (settings.cert_file, settings.key_file, settings.client_ca_file, settings.client_grants_file)
    return tuple(_state_of(file) for file in files if file is not None)


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        state = os.stat(file)
    except OSError:
        return None
    # Changed, not modified: rights that were missing may have come.
    return state.st_ino, state.st_size, state.st_ctime_ns
