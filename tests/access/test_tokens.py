"""Tokens that were taken are remembered, but never beyond their end, or that of the key that signed them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.access.forge import an_issuer, claims, ec, jwks, okp, rsa, token
from traffic_manager.access import tokens as tokens_module
from traffic_manager.access.admitted import Admitted, mark_of
from traffic_manager.access.signing_keys import SigningKeys, signing_keys_of
from traffic_manager.access.tokens import KEYS_LAST_S, Tokens
from traffic_manager.errors import IssuerUnavailable, SigningKeyUnknown, TokenRefused

NOW = 1_800_000_000.0


def keys_of(*names: str) -> SigningKeys:
    return signing_keys_of(json.dumps(jwks(*(rsa(name) for name in names))).encode())


class Scene:
    """One issuer with the key r1, on a clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOW
        self.admitted = Admitted(lambda: self.now)
        self.tokens = Tokens([an_issuer()], self.admitted)
        self.tokens.learn(an_issuer(), keys_of("r1"))

    def is_permitted(self, text: bytes) -> bool:
        """Return what the lane is told."""
        return self.admitted.permits_resolve(mark_of(text), "team-a", "prod")


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_signature_is_checked_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    text = token(claims(NOW))
    assert not scene.is_permitted(text)
    first = scene.tokens.principal_of(text)
    assert scene.is_permitted(text)
    monkeypatch.setattr(tokens_module, "deserialize_compact", None)
    assert scene.tokens.principal_of(text) is first


def test_token_that_was_taken_ends_when_it_says_so(scene: Scene) -> None:
    text = token(claims(NOW))
    principal = scene.tokens.principal_of(text)
    scene.now += 299.0
    assert (scene.is_permitted(text), scene.tokens.knows(principal)) == (True, True)
    scene.now += 1.0
    assert (scene.is_permitted(text), scene.tokens.knows(principal)) == (False, False)


def test_key_that_is_withdrawn_ends_tokens_that_were_taken(scene: Scene) -> None:
    text = token(claims(NOW))
    principal = scene.tokens.principal_of(text)
    scene.tokens.learn(an_issuer(), keys_of("r2"))
    assert (scene.is_permitted(text), scene.tokens.knows(principal)) == (False, False)
    with pytest.raises(SigningKeyUnknown):
        scene.tokens.principal_of(text)


def test_other_key_of_the_same_name_ends_tokens_that_were_taken(scene: Scene) -> None:
    text = token(claims(NOW))
    scene.tokens.principal_of(text)
    other = jwks(rsa("other"), kid="r1")
    scene.tokens.learn(an_issuer(), signing_keys_of(json.dumps(other).encode()))
    assert not scene.is_permitted(text)
    with pytest.raises(TokenRefused):
        scene.tokens.principal_of(text)


def test_same_keys_again_make_nobody_be_checked_anew(scene: Scene) -> None:
    text = token(claims(NOW))
    scene.tokens.principal_of(text)
    scene.tokens.learn(an_issuer(), keys_of("r1"))
    assert scene.is_permitted(text)


def test_tokens_are_not_believed_longer_than_the_keys(scene: Scene) -> None:
    scene.now += KEYS_LAST_S - 10.0
    text = token(claims(scene.now))
    principal = scene.tokens.principal_of(text)
    scene.now += 10.0
    assert (scene.is_permitted(text), scene.tokens.knows(principal)) == (False, False)
    with pytest.raises(IssuerUnavailable):
        scene.tokens.principal_of(token(claims(scene.now)))


def test_token_that_outlives_the_keys_is_good_again_when_they_were_confirmed(scene: Scene) -> None:
    """Remembered as long as the keys were believed, it is checked anew then, and not refused."""
    scene.now += KEYS_LAST_S - 10.0
    text = token(claims(scene.now))
    scene.tokens.principal_of(text)
    scene.tokens.learn(an_issuer(), keys_of("r1"))
    scene.now += 20.0
    assert not scene.is_permitted(text)
    assert scene.tokens.principal_of(text).name == "token:corp/alice"
    assert scene.is_permitted(text)


def test_refused_tokens_take_no_memory(scene: Scene) -> None:
    for number in range(100):
        with pytest.raises(TokenRefused):
            scene.tokens.principal_of(token(claims(NOW, aud=f"other-{number}")))
    assert len(scene.admitted) == 0


_TEXT = st.text("abAB_-=é", max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_FIELDS = st.sampled_from(["kty", "kid", "use", "key_ops", "alg", "n", "e", "crv", "x", "y", "d", "x5c"])


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(_FIELDS, _JSON, min_size=1),
    which=st.sampled_from([rsa("r1"), ec("e1"), okp("o1")]),
)
def test_strange_key_beside_a_good_one_is_passed_over(changes: dict[str, Any], which: Any) -> None:
    strange = {**which.as_dict(private=False), **changes}
    published = {"keys": [strange, *jwks(rsa("good"))["keys"], "a text", None]}
    assume(strange["kid"] != "good")
    assert "good" in signing_keys_of(json.dumps(published).encode())


def test_keys_of_one_issuer_sign_nothing_for_another(scene: Scene) -> None:
    other = an_issuer(name="other", issuer="https://other.example.com", audiences=["traffic-manager"])
    tokens = Tokens([an_issuer(), other], scene.admitted)
    tokens.learn(an_issuer(), keys_of("r1"))
    tokens.learn(other, keys_of("r2"))
    with pytest.raises(SigningKeyUnknown):
        tokens.principal_of(token(claims(NOW, iss=other.url), rsa("r1")))
    assert tokens.principal_of(token(claims(NOW, iss=other.url), rsa("r2"))).name == "token:other/alice"
