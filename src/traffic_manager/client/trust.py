"""Whom a client trusts over HTTPS, and what it shows."""

from __future__ import annotations

import ssl
from pathlib import Path


def trust(ca_file: Path | None, cert_file: Path | None) -> ssl.SSLContext | bool:
    """Return whom to trust and what to show; True for the system's authorities and nothing. *ca_file*: authorities;
    *cert_file*: our certificate and its key; both in PEM. Raises ValueError if a file is bad."""
    if ca_file is None and cert_file is None:
        return True
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # OpenSSL's errors are such, too
        raise ValueError(
            f"{ca_file}: holds no certificates of authorities in PEM: {error.strerror}"
        ) from None
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, password="")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{cert_file}: holds no certificate with its key in PEM: {reason}") from None
    return context
