"""What a provider publishes is fetched within bounds, and from nowhere but where it may be."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.access.authority import Authority
from tests.providers.stub import CONFIGURATION, JWKS, PATIENCE_S, Stub, answer
from traffic_manager.access.issuers import issuers_of
from traffic_manager.access.signing_keys import SigningKeys
from traffic_manager.errors import StartRefused
from traffic_manager.providers import documents as documents_module
from traffic_manager.providers.documents import MAX_BYTES, Documents, FetchFailed


@pytest.fixture(autouse=True)
def _has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "FETCH_S", PATIENCE_S)


def keys_of(stub: Stub, **changes: Any) -> SigningKeys:
    """Return the keys that are fetched."""

    async def fetch() -> SigningKeys:
        documents = Documents(issuers_of(json.dumps([stub.described(**changes)]))[0])
        try:
            return await documents.signing_keys()
        finally:
            await documents.close()

    return asyncio.run(fetch())


def test_keys_are_found_by_discovery(stub: Stub) -> None:
    assert set(keys_of(stub)) == {"r1"}
    assert stub.asked == {CONFIGURATION: 1, JWKS: 1}


def test_place_of_the_keys_may_be_set(stub: Stub) -> None:
    assert set(keys_of(stub, jwks_uri=f"{stub.url}{JWKS}")) == {"r1"}
    assert stub.asked == {JWKS: 1}


BAD_KEYS: dict[str, tuple[Callable[[Stub], Any], str]] = {
    "an error": (lambda stub: answer(b"{}", 500), "HTTP 500"),
    "a redirect": (lambda stub: answer(b"", 302, Location=stub.url + CONFIGURATION), "HTTP 302"),
    "too large": (lambda stub: answer(b" " * (MAX_BYTES + 1)), "larger than"),
    "a bomb": (lambda stub: answer(gzip.compress(b"x" * 10**7), Content_Encoding="gzip"), "encoding"),
    "no JSON": (lambda stub: answer(b"<html>"), "unexpected"),
    "no keys": (lambda stub: answer(b'{"keys": []}'), "no key"),
    "a list": (lambda stub: answer(b"[]"), "no list of keys"),
    "too many keys": (lambda stub: answer(json.dumps({"keys": [{}] * 65}).encode()), "no list of keys"),
    "two keys of one name": (
        lambda stub: answer(json.dumps({"keys": stub.keys["keys"] * 2}).encode()),
        "two keys",
    ),
    "keys for nothing here": (
        lambda stub: answer(json.dumps({"keys": [{"kty": "oct", "kid": "a", "k": "AAAA"}, 1, {}]}).encode()),
        "no key that",
    ),
}


@pytest.mark.parametrize(("made", "reason"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_bad_answer_is_refused(stub: Stub, made: Callable[[Stub], Any], reason: str) -> None:
    stub.answers[JWKS] = made(stub)
    with pytest.raises(FetchFailed, match=reason):
        keys_of(stub)


@pytest.mark.parametrize("way", ["silence", "drips"])
def test_answer_that_takes_too_long_is_not_waited_for(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(documents_module, "FETCH_S", 0.5)
    stub.answers[CONFIGURATION] = stub.hang if way == "silence" else stub.drip
    with pytest.raises(FetchFailed, match="took longer"):
        keys_of(stub)


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ({"issuer": "https://evil.example.com", "jwks_uri": "{url}/jwks"}, "another issuer"),
        ({"issuer": "{url}/", "jwks_uri": "{url}/jwks"}, "another issuer"),
        ({"issuer": "{url}", "jwks_uri": "https://evil.example.com/jwks"}, "elsewhere"),
        ({"issuer": "{url}", "jwks_uri": "http://127.0.0.1/jwks"}, "elsewhere"),
        ({"issuer": "{url}", "jwks_uri": "file:///etc/passwd"}, "elsewhere"),
        ({"issuer": "{url}"}, "elsewhere"),
    ],
)
def test_keys_are_fetched_from_nowhere_else(stub: Stub, configuration: dict[str, str], reason: str) -> None:
    document = {name: value.replace("{url}", stub.url) for name, value in configuration.items()}
    stub.answers[CONFIGURATION] = answer(json.dumps(document).encode())
    with pytest.raises(FetchFailed, match=reason):
        keys_of(stub)
    assert stub.asked == {CONFIGURATION: 1}


def test_provider_that_is_not_trusted_is_not_asked(stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed):
        keys_of(stub, ca_file=str(Authority(tmp_path, "stranger").file))
    assert not stub.asked


def test_bad_file_of_authorities_refuses_the_start(stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"^AUTH_ISSUERS_FILE: issuer corp: ca_file"):
        keys_of(stub, ca_file=str(tmp_path / "missing"))
