"""The keys that an issuer signs with, as it publishes them (a JWKS, RFC 7517): what can check signatures is kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key

# It warns of weak keys, which are refused here, and of EdDSA, which its issuer chose: nobody reads that in a server.
warnings.simplefilter("ignore", SecurityWarning)

MAX_KEYS = 64
_MIN_RSA_BITS = 2048
_KINDS: Mapping[str, frozenset[str]] = {
    "RSA": frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
    "Ed25519": frozenset({"EdDSA", "Ed25519"}),
}
# What a public key consists of. Nothing else of a published key is looked at, least of all a private part.
_PARTS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}

Json = Any  # JSON values


@dataclass(frozen=True)
class SigningKey:
    """One of them, and the *algorithms* that it may be used with."""

    key: RSAKey | ECKey | OKPKey
    algorithms: frozenset[str]


# By its kid.
SigningKeys = Mapping[str, SigningKey]


def signing_keys_of(document: bytes) -> SigningKeys:
    """Return the keys of a JWKS; one that is of no use here is passed over. Raises ValueError if none is of use, or
    if two have the same name."""
    written = orjson.loads(document)
    listed = written.get("keys") if isinstance(written, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise ValueError("is no list of keys")
    found: dict[str, SigningKey] = {}
    for jwk in listed:
        if (key := _signing_key(jwk)) is None:
            continue
        if jwk["kid"] in found:
            raise ValueError("has two keys of one name")
        found[jwk["kid"]] = key
    if not found:
        raise ValueError("has no key that signatures can be checked with")
    return found


def _signing_key(jwk: Json) -> SigningKey | None:
    if not isinstance(jwk, dict) or not all(isinstance(jwk.get(part), str) for part in ("kid", "kty")):
        return None
    uses = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return None
    try:
        public = {part: jwk[part] for part in ("kty", *_PARTS[jwk["kty"]])}
        key = import_key(public)
        kind = "RSA" if isinstance(key, RSAKey) else str(jwk["crv"])
        is_weak = isinstance(key, RSAKey) and key.raw_value.key_size < _MIN_RSA_BITS
    except (JoseError, ValueError, TypeError, LookupError):
        return None
    algorithms = _KINDS.get(kind, frozenset())
    if "alg" in jwk:
        algorithms &= {jwk["alg"]} if isinstance(jwk["alg"], str) else frozenset()
    if is_weak or not algorithms or not isinstance(key, RSAKey | ECKey | OKPKey):
        return None
    return SigningKey(key, algorithms)
