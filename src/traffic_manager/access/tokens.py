"""Tokens of identity providers (JWT, RFC 7519): who they say asks, and what that permits.

What costs nothing is looked at first, the signature last; nothing of a token is believed before. The key comes from
what its issuer publishes, by the `kid`, and has to be of the kind that the algorithm needs; what a token brings along
itself (`jwk`, `jku`, `x5c`, ...) is a reason to refuse it. Cryptography and the form of signatures are joserfc's.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry, deserialize_compact

from traffic_manager.access.admitted import Admitted, Entry, mark_of
from traffic_manager.access.issuers import Issuer, claim_in
from traffic_manager.access.permissions import CredentialKind, Grant, Principal
from traffic_manager.access.signing_keys import SigningKey, SigningKeys
from traffic_manager.errors import IssuerUnavailable, SigningKeyUnknown, TokenRefused

MAX_TOKEN_BYTES = 8 * 1024
LEEWAY_S = 60
MAX_LIFETIME_S = 24 * 3600
# Keys that could not be fetched anew for so long are no longer believed.
KEYS_LAST_S = 24 * 3600
_SUBJECT_CHARACTERS = 255
_MAX_HEADER_BYTES = 2048

_is_written = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
# Of other uses (logout, events, proofs of possession) the same provider signs documents, too.
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt", "application/jwt"})
# They change what is signed, or with what.
_FOREIGN_HEADERS = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"})

Claims = Mapping[str, Any]  # Any: JSON values


@dataclass(frozen=True)
class _Known:
    """The keys of an issuer, and how long (seconds since 1970) they are believed."""

    keys: SigningKeys
    until: float


class Tokens:
    """Checks tokens of *issuers* with the keys that were learned; *admitted* remembers who was let in."""

    def __init__(self, issuers: Sequence[Issuer], admitted: Admitted) -> None:
        self._issuers = {issuer.url: issuer for issuer in issuers}
        self._admitted = admitted
        self._known: dict[str, _Known] = {}

    def learn(self, issuer: Issuer, keys: SigningKeys) -> None:
        """Take *keys* as all that *issuer* has now."""
        before = self._known.get(issuer.name)
        self._known[issuer.name] = _Known(keys, self._admitted.now() + KEYS_LAST_S)
        if before is None or before.keys != keys:
            self._admitted.forget()

    def principal_of(self, token: bytes) -> Principal:
        """Return whom *token* names. Raises TokenRefused; SigningKeyUnknown or IssuerUnavailable if its issuer should
        be asked first."""
        return self._admitted.principal_of(mark_of(token), lambda: self._checked(token))

    def knows(self, principal: Principal) -> bool:
        """Return whether the token of *principal* is still good: for whoever was let in a while ago."""
        if principal.signer is None or principal.expires_at is None:
            return False
        issuer, kid = principal.signer
        known, now = self._known.get(issuer), self._admitted.now()
        return known is not None and kid in known.keys and now < min(known.until, principal.expires_at)

    def _checked(self, token: bytes) -> Entry:
        if len(token) > MAX_TOKEN_BYTES or not _is_written(token):
            raise TokenRefused("is no token, or too long")
        header, claims = (_object_in(part) for part in token.split(b".")[:2])
        issuer = self._issuer_of(claims)
        algorithm = _algorithm_of(header, issuer)
        expires_at = self._check_claims(claims, issuer)
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise TokenRefused("names no key")
        known = self._known_of(issuer)
        if (key := known.keys.get(kid)) is None:
            raise SigningKeyUnknown(issuer.name)
        _check_signature(token, key, algorithm)
        principal = _principal(claims, issuer, kid, expires_at)
        return Entry(principal, min(expires_at, known.until))

    def _issuer_of(self, claims: Claims) -> Issuer:
        url = claims.get("iss")
        issuer = self._issuers.get(url) if isinstance(url, str) else None
        if issuer is None:
            raise TokenRefused("is of no issuer that is known here")
        return issuer

    def _known_of(self, issuer: Issuer) -> _Known:
        known = self._known.get(issuer.name)
        if known is None or self._admitted.now() >= known.until:
            raise IssuerUnavailable(issuer.name)
        return known

    def _check_claims(self, claims: Claims, issuer: Issuer) -> float:
        """Return when the token ends."""
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(found, str) and found in issuer.audiences for found in audiences):
            raise TokenRefused("is for another audience")
        now = self._admitted.now()
        expires_at, begins_at, issued_at = (_time_in(claims, name) for name in ("exp", "nbf", "iat"))
        if expires_at is None or expires_at <= now:
            raise TokenRefused("has ended, or has no end")
        if max(begins_at or 0, issued_at or 0) > now + LEEWAY_S:
            raise TokenRefused("has not begun")
        if expires_at - (issued_at or now) > MAX_LIFETIME_S or expires_at - now > MAX_LIFETIME_S + LEEWAY_S:
            raise TokenRefused("lasts for more than a day")
        return expires_at


def _object_in(part: bytes) -> Claims:
    try:
        found = orjson.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise TokenRefused("holds no JSON objects")
    return found


def _algorithm_of(header: Claims, issuer: Issuer) -> str:
    algorithm, kind = header.get("alg"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in issuer.algorithms:
        raise TokenRefused("is signed in a way that its issuer does not use")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenRefused("is no token of access")
    if foreign := _FOREIGN_HEADERS & set(header):
        raise TokenRefused(f"brings {sorted(foreign)[0]} along")
    return algorithm


def _check_signature(token: bytes, key: SigningKey, algorithm: str) -> None:
    if algorithm not in key.algorithms:
        raise TokenRefused("is signed in a way that its key is not for")
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = _MAX_HEADER_BYTES
    try:
        deserialize_compact(token, key.key, registry=registry)
    except (JoseError, ValueError, TypeError) as error:
        raise TokenRefused("has a signature that is not its issuer's") from error


def _time_in(claims: Claims, name: str) -> float | None:
    """Return a time in seconds since 1970, None if it is not there."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise TokenRefused(f"has {name} that is no time")
    return float(value)


def _principal(claims: Claims, issuer: Issuer, kid: str, expires_at: float) -> Principal:
    subject = claim_in(claims, issuer.subject)
    is_name = isinstance(subject, str) and subject.isascii() and subject.isprintable()
    if not is_name or not 0 < len(subject) <= _SUBJECT_CHARACTERS:
        raise TokenRefused("names nobody")
    given = _given(claims, issuer)
    return Principal(
        f"token:{issuer.name}/{subject}",
        tuple(given),
        credential=CredentialKind.TOKEN,
        sources=tuple(given.values()),
        expires_at=expires_at,
        signer=(issuer.name, kid),
    )


def _given(claims: Claims, issuer: Issuer) -> dict[Grant, str]:
    """Return the grants that the values of claims give, and which of them does."""
    given: dict[Grant, str] = {}
    for claim, by_value in issuer.grants.items():
        found = claim_in(claims, claim)
        for value in found if isinstance(found, list) else [found]:
            for grant in by_value.get(value, ()) if isinstance(value, str) else ():
                given.setdefault(grant, f"{claim} {value} of {issuer.name}")
    return given
