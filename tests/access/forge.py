"""Tokens for tests, good and forged: whatever header, claims and signature somebody may put together."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from traffic_manager.access.issuers import Issuer, issuers_of

Json = dict[str, Any]
URL = "https://id.example.com/tenant"
AUDIENCE = "traffic-manager"
GRANTS = {"groups": {"ops": ["viewer:*/*"], "team-a": ["editor:team-a/*", "viewer:*/*"]}}


def b64(text: bytes | str | Mapping[str, Any]) -> bytes:
    """Return *text*, or a JSON object, as the parts of tokens are written."""
    if isinstance(text, Mapping):
        text = json.dumps(text)
    return urlsafe_b64encode(text.encode() if isinstance(text, str) else text).rstrip(b"=")


@cache
def rsa(name: str, bits: int = 2048) -> RSAKey:
    """Return the key of that name."""
    return RSAKey.generate_key(bits, {"kid": name})


@cache
def ec(name: str, curve: str = "P-256") -> ECKey:
    """Return the key of that name."""
    return ECKey.generate_key(curve, {"kid": name})


@cache
def okp(name: str) -> OKPKey:
    """Return the key of that name."""
    return OKPKey.generate_key("Ed25519", {"kid": name})


def jwks(*keys: RSAKey | ECKey | OKPKey, **more: Any) -> Json:
    """Return what an issuer with *keys* publishes, each with *more*."""
    return {"keys": [{**key.as_dict(private=False), **more} for key in keys]}


def claims(now: float, **changes: Any) -> Json:
    """Return good claims with *changes*; None takes one away."""
    good: Json = {
        "iss": URL,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": int(now),
        "exp": int(now) + 300,
        "groups": ["team-a"],
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def token(
    payload: Mapping[str, Any] | bytes,
    key: Any = None,  # Any: of whatever kind
    alg: str = "RS256",
    header: Mapping[str, Any] | bytes | None = None,
    signed_as: str | None = None,
) -> bytes:
    """Return the token of *payload* that says *alg* and is signed by *key* as *signed_as*, or as it says. *header*:
    what stands in the header beside, or all of it as bytes. A *key* of bytes is a secret for HMAC."""
    key = key or rsa("r1")
    kid = "r1" if isinstance(key, bytes) else key.kid
    whole = header if isinstance(header, bytes) else {"alg": alg, "kid": kid, **(header or {})}
    text = b64({n: v for n, v in whole.items() if v is not None} if isinstance(whole, dict) else whole)
    text += b"." + b64(payload)
    # The library makes no HMAC with a public key, but others would.
    if isinstance(key, bytes):
        return text + b"." + b64(hmac.digest(key, text, f"sha{(signed_as or alg)[2:]}"))
    return text + b"." + b64(JWSRegistry.algorithms[signed_as or alg].sign(text, key))


def an_issuer(**changes: Any) -> Issuer:
    """Return an issuer as the settings' file describes it, with *changes*."""
    return issuers_of(json.dumps([described(**changes)]))[0]


def described(**changes: Any) -> Json:
    """Return an entry of the settings' file."""
    return {
        "name": "corp",
        "issuer": URL,
        "audiences": [AUDIENCE],
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "grants": GRANTS,
        **changes,
    }
