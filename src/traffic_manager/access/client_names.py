"""Whom the certificates of clients name: what the names in them may do is a file of the server's.

TLS has verified a certificate before anybody asks here. Its names (subject alternative names) are compared whole,
with their kind, so that an authority which lets people choose one kind gives nobody the grants of another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from traffic_manager.access.admitted import Admitted, Entry
from traffic_manager.access.permissions import (
    CredentialKind,
    Grant,
    Principal,
    grants_in,
    without_repetition,
)
from traffic_manager.errors import Unauthenticated

# As OpenSSL writes them.
KINDS = ("DNS", "URI", "email", "IP Address")
MAX_NAME_CHARACTERS = 255
_PREFIX = "certificate:"

GrantsByName = Mapping[str, tuple[Grant, ...]]


class ClientCertificate(NamedTuple):
    """What a client has shown: *names* as `DNS:ci.example.com`, in the certificate's order; *expires_at* in seconds
    since 1970; *mark* stands for it in memory."""

    names: tuple[str, ...]
    expires_at: float
    mark: bytes


def grants_by_name(text: str) -> GrantsByName:
    """Return what the file says. Raises ValueError that says what is wrong, and where."""
    document = json.loads(text, object_pairs_hook=without_repetition)
    if not isinstance(document, dict):
        raise ValueError('must be an object such as {"DNS:ci.example.com": ["editor:team-a/*"]}')
    found = [(_checked_name(name), grants_in(grants, name)) for name, grants in document.items()]
    return without_repetition(found)


def _checked_name(name: str) -> str:
    kind, _, rest = name.partition(":")
    if kind not in KINDS or not rest or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(
            f"{name[:64]!r}: must be a name such as DNS:ci.example.com or URI:spiffe://example.com/ci"
        )
    return normal_name(kind, rest)


def normal_name(kind: str, text: str) -> str:
    """Return a name as it is compared: those of DNS in small letters."""
    return f"{kind}:{text.lower() if kind == 'DNS' else text}"


class ClientNames:
    """The grants of names. None are there until they are loaded."""

    def __init__(self, admitted: Admitted) -> None:
        self._admitted = admitted
        self._grants: GrantsByName = {}

    def load(self, grants: GrantsByName) -> None:
        """Take these instead of all that were here."""
        self._grants = grants
        self._admitted.forget()

    def principal_of(self, certificate: ClientCertificate) -> Principal:
        """Return whom it names: the first of its names that has grants here. Raises Unauthenticated."""
        return self._admitted.principal_of(certificate.mark, lambda: self._checked(certificate))

    def knows(self, principal: Principal) -> bool:
        """Return whether the name still has the same grants, and the certificate has not ended."""
        is_over = principal.expires_at is None or self._admitted.now() >= principal.expires_at
        return not is_over and self._grants.get(principal.name.removeprefix(_PREFIX)) == principal.grants

    def _checked(self, certificate: ClientCertificate) -> Entry:
        for name in certificate.names:
            if (grants := self._grants.get(name)) is not None:
                source = f"{name} in TLS_CLIENT_GRANTS_FILE"
                principal = Principal(
                    f"{_PREFIX}{name}",
                    grants,
                    credential=CredentialKind.CERTIFICATE,
                    sources=(source,) * len(grants),
                    expires_at=certificate.expires_at,
                )
                return Entry(principal, certificate.expires_at)
        raise Unauthenticated
