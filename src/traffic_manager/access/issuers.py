"""Whose tokens are taken, and what they permit: a file of the server's, read once, at start."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from traffic_manager.access.permissions import Grant, grants_in, without_repetition
from traffic_manager.routing.model import name_problem

# With a public key anybody can make an HMAC that fits it, and `none` anybody without a key: neither can be asked for.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)
_REQUIRED = frozenset({"name", "issuer", "audiences", "algorithms", "grants"})
_OPTIONAL = frozenset({"subject", "jwks_uri", "ca_file"})
_is_claim = re.compile(r"[\x21-\x7e]{1,200}").fullmatch

# By claim, then by a value of it.
GrantsByClaim = Mapping[str, Mapping[str, tuple[Grant, ...]]]
Json = Any  # JSON values


@dataclass(frozen=True)
class Issuer:
    """One whose tokens are taken. *name* is what we call it, *url* what its tokens say as `iss`; *grants* come from
    the values of claims. A *claim* is a name, or a JSON pointer. Without *jwks_uri* the issuer is asked for it."""

    name: str
    url: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    grants: GrantsByClaim
    subject: str = "sub"
    jwks_uri: str | None = None
    ca_file: Path | None = None


def issuers_of(text: str) -> Sequence[Issuer]:
    """Return what the file says. Raises ValueError that says what is wrong, and where."""
    document = json.loads(text, object_pairs_hook=without_repetition)
    if not isinstance(document, list) or not document:
        raise ValueError("must be a list of issuers")
    found = [_issuer(written, f"issuer {index}") for index, written in enumerate(document, 1)]
    for what in ("name", "url"):
        if len({getattr(issuer, what) for issuer in found}) != len(found):
            raise ValueError("two issuers are the same")
    return found


def claim_in(claims: Mapping[str, Json], claim: str) -> Json:
    """Return the value of *claim*, None if it is not there."""
    if not claim.startswith("/"):
        return claims.get(claim)
    value: Json = claims
    for step in claim[1:].split("/"):
        if not isinstance(value, dict):
            return None
        value = value.get(step.replace("~1", "/").replace("~0", "~"))
    return value


def _issuer(written: Json, where: str) -> Issuer:
    if not isinstance(written, dict):
        raise ValueError(f"{where}: must be an object")
    if (missing := _REQUIRED - set(written)) or (unknown := set(written) - _REQUIRED - _OPTIONAL):
        what = "has no" if missing else "has an unknown"
        raise ValueError(f"{where}: {what} {sorted(missing or unknown)[0]}")
    name = _checked(written["name"], lambda n: name_problem("name", n) is None, f"{where}: name: is no name")
    where = f"issuer {name}"
    algorithms = _words(written["algorithms"], f"{where}: algorithms")
    if strange := algorithms - ALGORITHMS:
        raise ValueError(
            f"{where}: algorithms: {sorted(strange)[0]} is not one of {', '.join(sorted(ALGORITHMS))}"
        )
    jwks_uri, ca_file = written.get("jwks_uri"), written.get("ca_file")
    return Issuer(
        name=name,
        url=_url(written["issuer"], f"{where}: issuer"),
        audiences=_words(written["audiences"], f"{where}: audiences"),
        algorithms=algorithms,
        grants=_grants(written["grants"], f"{where}: grants"),
        subject=_claim(written.get("subject", "sub"), f"{where}: subject"),
        jwks_uri=None if jwks_uri is None else _url(jwks_uri, f"{where}: jwks_uri"),
        ca_file=None
        if ca_file is None
        else Path(_checked(ca_file, bool, f"{where}: ca_file: must be a path")),
    )


def _grants(written: Json, where: str) -> GrantsByClaim:
    if not isinstance(written, dict):
        raise ValueError(f'{where}: must be an object such as {{"groups": {{"ops": ["viewer:*/*"]}}}}')
    found: dict[str, Mapping[str, tuple[Grant, ...]]] = {}
    for claim, by_value in written.items():
        if not isinstance(by_value, dict):
            raise ValueError(f"{where}: {claim[:64]}: must be an object of values of that claim")
        found[_claim(claim, where)] = {
            value: grants_in(grants, f"{where}: {claim}: {value[:64]}") for value, grants in by_value.items()
        }
    return found


def _claim(written: Json, where: str) -> str:
    return _checked(
        written, lambda text: _is_claim(text) is not None, f"{where}: must be the name of a claim"
    )


def _words(written: Json, where: str) -> frozenset[str]:
    if not isinstance(written, list) or not written or not all(isinstance(w, str) and w for w in written):
        raise ValueError(f"{where}: must be a list of words, and not empty")
    return frozenset(written)


def _url(written: Json, where: str) -> str:
    """Return it as it is: that of an issuer is compared whole. What is fetched must be what the issuer has said."""
    url = _checked(written, lambda text: text.isascii() and text.isprintable(), f"{where}: must be a URL")
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.fragment or " " in url:
        raise ValueError(f"{where}: must begin with https:// and name a host")
    return url


def _checked(written: Json, is_good: Callable[[str], bool], problem: str) -> str:
    if not isinstance(written, str) or not is_good(written):
        raise ValueError(problem)
    return written
