"""Eighty hostile tokens and more: none is taken, and of none is the issuer asked more than it may be.

`CORPUS` is a table: what is wrong with a token, and how it is made. All else of it is as good as that of GOOD.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc.jwk import RSAKey

from tests.access.forge import AUDIENCE, URL, an_issuer, b64, claims, ec, jwks, okp, rsa, token
from traffic_manager.access.admitted import Admitted
from traffic_manager.access.signing_keys import signing_keys_of
from traffic_manager.access.tokens import Tokens
from traffic_manager.errors import TokenRefused

pytestmark = pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
NOW = 1_800_000_000.0
DER = b"0\x06\x02\x01\x01\x02\x01\x01"
DAY = 86_400
R1, E1, O1, STRANGER = rsa("r1"), ec("e1"), okp("o1"), RSAKey.generate_key(2048, {"kid": "r1"})
SMALL = rsa("small", 1024)
PUBLISHED = [
    *jwks(R1, E1, O1, SMALL)["keys"],
    *jwks(rsa("enc"), use="enc")["keys"],
    *jwks(rsa("ps"), alg="PS256")["keys"],
    *jwks(ec("e384", "P-384"))["keys"],
    {"kty": "oct", "kid": "shared", "k": "c2VjcmV0LXRoYXQtZXZlcnlib2R5LWNhbi1yZWFkISE"},
]


def good(**changes: Any) -> dict[str, Any]:
    return claims(NOW, **changes)


def with_claims(**changes: Any) -> Callable[[], bytes]:
    return lambda: token(good(**changes))


def with_header(**header: Any) -> Callable[[], bytes]:
    return lambda: token(good(), header=header)


def _public(key: RSAKey) -> RSAPublicKey:
    found = key.get_op_key("verify")
    assert isinstance(found, RSAPublicKey)
    return found


def public_pem() -> bytes:
    return _public(R1).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def public_der() -> bytes:
    return _public(R1).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def changed(part: int, change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    """Return what makes a good token and then changes one of its parts."""

    def make() -> bytes:
        parts = token(good()).split(b".")
        parts[part] = change(parts[part])
        return b".".join(parts)

    return make


GOOD: dict[str, Callable[[], bytes]] = {
    "RS256": lambda: token(good()),
    "ES256": lambda: token(good(), E1, "ES256"),
    "EdDSA": lambda: token(good(), O1, "EdDSA"),
    "several audiences": with_claims(aud=["other", AUDIENCE]),
    "without iat": with_claims(iat=None),
    "begins within the leeway": with_claims(nbf=NOW + 59, iat=NOW + 59),
    "typ of RFC 9068": with_header(typ="at+jwt"),
    "unknown header": with_header(nonce="x"),
    "time with a fraction": with_claims(exp=NOW + 0.5),
}

CORPUS: dict[str, Callable[[], bytes]] = {
    # The algorithm
    "none, no signature": lambda: token(good(), R1, "none"),
    "None": lambda: token(good(), R1, "None", signed_as="none"),
    "NONE": lambda: token(good(), R1, "NONE", signed_as="none"),
    "none with the signature of RS256": lambda: token(good(), R1, "none", signed_as="RS256"),
    "HS256 with the public key as PEM": lambda: token(good(), public_pem(), "HS256"),
    "HS256 with the public key as PEM without its last line break": lambda: token(
        good(), public_pem().strip(), "HS256"
    ),
    "HS256 with the public key as DER": lambda: token(good(), public_der(), "HS256"),
    "HS256 with the modulus": lambda: token(good(), (str(R1.as_dict(private=False)["n"]).encode()), "HS256"),
    "HS384 with the public key": lambda: token(good(), public_pem(), "HS384"),
    "HS256 with a published secret": lambda: token(
        good(), (b"secret-that-everybody-can-read!!"), "HS256", {"kid": "shared"}
    ),
    "HS256 with no secret": lambda: token(good(), b"\0", "HS256", {"kid": "shared"}),
    "says RS256, signed as HS256": lambda: token(good(), public_pem(), "RS256", signed_as="HS256"),
    "RS512, which the issuer does not use": lambda: token(good(), R1, "RS512"),
    "PS256, which the issuer does not use": lambda: token(good(), R1, "PS256"),
    "says RS256, signed as PS256": lambda: token(good(), R1, "RS256", signed_as="PS256"),
    "says ES256, with an RSA key": lambda: token(good(), R1, "ES256", signed_as="RS256"),
    "says RS256, with an EC key": lambda: token(good(), E1, "RS256", signed_as="ES256"),
    "says EdDSA, with an EC key": lambda: token(good(), E1, "EdDSA", signed_as="ES256"),
    "ES256 with a key of P-384": lambda: token(good(), ec("e384", "P-384"), "ES256", signed_as="ES384"),
    "RS256 with a key for PS256 alone": lambda: token(good(), rsa("ps"), "RS256"),
    "rs256": lambda: token(good(), R1, "rs256", signed_as="RS256"),
    "no algorithm": with_header(alg=None),
    "algorithm is a list": with_header(alg=["RS256"]),
    "algorithm is null byte and more": with_header(alg="RS256\x00"),
    # The key
    "signed by a stranger": lambda: token(good(), STRANGER),
    "signed by a stranger under another name": lambda: token(good(), rsa("stranger")),
    "no kid": with_header(kid=None),
    "kid is a number": with_header(kid=1),
    "kid is a list": with_header(kid=["r1"]),
    "kid is empty": with_header(kid=""),
    "kid is a path": with_header(kid="../../../../dev/null"),
    "kid is SQL": with_header(kid="x' UNION SELECT 'secret"),
    "kid is a command": with_header(kid="r1|/bin/true"),
    "kid is a URL": with_header(kid="https://evil.example.com/key"),
    "kid has another case": with_header(kid="R1"),
    "kid of a key for encryption": lambda: token(good(), rsa("enc")),
    "kid of a key that is too small": lambda: token(good(), SMALL),
    "kid of another key": lambda: token(good(), R1, header={"kid": "e1"}),
    "brings its key along (jwk)": lambda: token(
        good(), STRANGER, header={"jwk": STRANGER.as_dict(private=False)}
    ),
    "brings its key along and is signed well": with_header(jwk=R1.as_dict(private=False)),
    "says where its key is (jku)": with_header(jku="https://evil.example.com/jwks"),
    "says where its certificate is (x5u)": with_header(x5u="https://evil.example.com/cert"),
    "brings a certificate along (x5c)": with_header(x5c=["MIIB"]),
    # The header
    "crit of something unknown": with_header(crit=["exp2"], exp2=1),
    "crit of nothing": with_header(crit=[]),
    "b64 false": with_header(b64=False, crit=["b64"]),
    "compressed": with_header(zip="DEF"),
    "typ of a logout": with_header(typ="logout+jwt"),
    "typ of an event": with_header(typ="secevent+jwt"),
    "typ of a proof": with_header(typ="dpop+jwt"),
    "typ is a number": with_header(typ=1),
    "header is a list": lambda: token(good(), header=b'["RS256"]'),
    "header is no JSON": lambda: token(good(), header=b"{alg:RS256}"),
    "header is no UTF-8": lambda: token(good(), header=b'{"alg":"RS256","kid":"r1","x":"\xff"}'),
    "header is nested deeply": lambda: token(
        good(), header=b'{"alg":"RS256","kid":"r1","x":%b}' % (b"[" * 2000)
    ),
    # The issuer and the audience
    "another issuer": with_claims(iss="https://evil.example.com"),
    "issuer with a slash more": with_claims(iss=URL + "/"),
    "issuer that begins the same": with_claims(iss=URL + ".evil.example.com"),
    "issuer that is a part of it": with_claims(iss="https://id.example.com"),
    "issuer in another case": with_claims(iss=URL.upper()),
    "issuers in a list": with_claims(iss=[URL]),
    "issuer in an object": with_claims(iss={URL: 1}),
    "no issuer": with_claims(iss=None),
    "another audience": with_claims(aud="other"),
    "audience that begins the same": with_claims(aud=AUDIENCE + "-staging"),
    "audience that is a part of it": with_claims(aud="traffic"),
    "audiences in one text": with_claims(aud=f"other {AUDIENCE}"),
    "audience in an object": with_claims(aud={AUDIENCE: True}),
    "audience is true": with_claims(aud=True),
    "list of other audiences": with_claims(aud=["a", "b", [AUDIENCE], None]),
    "no audience": with_claims(aud=None),
    "empty list of audiences": with_claims(aud=[]),
    # Times
    "has ended": with_claims(exp=NOW - 1),
    "ends now": with_claims(exp=NOW),
    "no end": with_claims(exp=None),
    "end is a text": with_claims(exp=str(int(NOW) + 300)),
    "end is true": with_claims(exp=True),
    "end is infinite": lambda: token(json.dumps(good(exp=float("inf"))).encode()),
    "end is not a number": lambda: token(json.dumps(good(exp=float("nan"))).encode()),
    "end is negative": with_claims(exp=-1),
    "end is beyond all calendars": with_claims(exp=10**300),
    "has not begun": with_claims(nbf=NOW + 61),
    "begin is a text": with_claims(nbf="0"),
    "issued in the future": with_claims(iat=NOW + 61),
    "issued at a text": with_claims(iat="now"),
    "lasts for more than a day": with_claims(exp=NOW + DAY + 61, iat=None),
    "lasted for more than a day": with_claims(iat=NOW - DAY, exp=NOW + 300),
    # Who
    "no subject": with_claims(sub=None),
    "subject is empty": with_claims(sub=""),
    "subject is a number": with_claims(sub=7),
    "subject with a line break": with_claims(sub="alice\nroot"),
    "subject with an escape sequence": with_claims(sub="\x1b[2Jalice"),
    "subject that looks like another": with_claims(sub="аlice"),
    "subject that is too long": with_claims(sub="a" * 256),
    # The form
    "two parts": lambda: token(good()).rpartition(b".")[0],
    "four parts": lambda: token(good()) + b".x",
    "five parts, as if encrypted": lambda: b"..".join([token(good()), b"x"]),
    "no signature": lambda: token(good()).rpartition(b".")[0] + b".",
    "signature cut": changed(2, lambda part: part[:-4]),
    "signature longer": changed(2, lambda part: part + b"AAAA"),
    "signature of zeros": changed(2, lambda part: b"A" * len(part)),
    "signature padded": changed(2, lambda part: part + b"=="),
    "signature in ordinary base64": changed(2, lambda part: part[:-1] + b"+"),
    "signature with a space": changed(2, lambda part: part[:8] + b" " + part[8:]),
    "claims changed": changed(1, lambda _: b64(good(sub="root"))),
    "claims of another token": changed(1, lambda _: token(good(groups=["ops"])).split(b".")[1]),
    "claims are a list": lambda: token(b"[1]"),
    "claims are no JSON": lambda: token(b"sub=alice"),
    "claims are null": lambda: token(b"null"),
    "claims are nested deeply": lambda: token(b'{"iss":%b' % (b"[" * 3000)),
    "claims padded": changed(1, lambda part: part + b"="),
    "claims with a line break": changed(1, lambda part: part + b"\n"),
    "ECDSA signature of zeros": lambda: (
        token(good(), E1, "ES256").rpartition(b".")[0] + b"." + b64(bytes(64))
    ),
    "ECDSA signature in DER": lambda: (
        token(good(), E1, "ES256").rpartition(b".")[0] + b"." + b64(b"0\x06\x02\x01\x01\x02\x01\x01")
    ),
    "Ed25519 signature of zeros": lambda: (
        token(good(), O1, "EdDSA").rpartition(b".")[0] + b"." + b64(bytes(64))
    ),
    "longer than 8 KiB": with_claims(more="x" * 8192),
    "in another encoding": lambda: urlsafe_b64encode(token(good())),
    "as JSON": lambda: json.dumps({"payload": b64(good()).decode(), "signatures": []}).encode(),
    "only dots": lambda: b"..",
}


@pytest.fixture
def tokens() -> Tokens:
    """One issuer, whose keys are known."""
    tokens = Tokens([an_issuer()], Admitted(lambda: NOW))
    tokens.learn(an_issuer(), signing_keys_of(json.dumps({"keys": PUBLISHED}).encode()))
    return tokens


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_good_token_is_taken(tokens: Tokens, make: Callable[[], bytes]) -> None:
    assert tokens.principal_of(make()).name == "token:corp/alice"


@pytest.mark.parametrize("make", CORPUS.values(), ids=CORPUS)
def test_hostile_token_is_refused(tokens: Tokens, make: Callable[[], bytes]) -> None:
    hostile = make()
    for _ in range(2):  # also when it comes again, and after a good one
        with pytest.raises(TokenRefused, match=r"^a valid credential is needed$"):
            tokens.principal_of(hostile)
        tokens.principal_of(token(good()))


def test_corpus_is_as_large_as_promised() -> None:
    assert len(CORPUS) >= 80
    assert len({make() for make in CORPUS.values()}) == len(CORPUS)
