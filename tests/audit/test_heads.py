"""A head counts as its key has signed it, to the last bit, and in no other form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.audit.keys import a_pair
from traffic_manager.audit.heads import SignedHead, SigningKey, public_key, read
from traffic_manager.errors import StartRefused
from traffic_manager.routing.ports import Head

HEAD = Head("0f8e5b1c2d3a4e5f8a9b0c1d2e3f4a5b", 1, 42)
AT = "2026-11-27T12:00:00.000000Z"


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    """A key."""
    return SigningKey(a_pair(tmp_path).private, "AUDIT_KEY_FILE")


def findings(lines: list[bytes], *keys: SigningKey) -> list[str]:
    """Return what is wrong with *lines*."""
    return list(read(lines, "heads.jsonl", [key.public for key in keys]).findings)


def test_what_was_signed_is_read_again(key: SigningKey) -> None:
    signed = key.sign(HEAD, bytes(range(32)), AT)
    kept = read([signed.line()], "heads.jsonl", [key.public])
    assert (kept.heads, kept.findings, kept.newest) == ([signed], [], signed)
    assert (signed.revision, signed.digest, signed.signed_at) == (42, bytes(range(32)), AT)


def test_what_is_signed_is_the_documented_array(key: SigningKey) -> None:
    signed = key.sign(HEAD, bytes(32), AT)
    assert json.loads(signed.signed) == [
        "traffic-manager-head-1",
        *(HEAD.epoch, 1, 42, "00" * 32, AT, key.id),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"epoch": "f" * 32},
        {"epoch_number": 2},
        {"revision": 43},
        {"chain": "11" * 32},
        {"signed_at": "2026-11-28T12:00:00.000000Z"},
        {"signature": "AAAA"},
        {"signature": "not base 64"},
    ],
)
def test_another_member_makes_the_signature_wrong(key: SigningKey, other: dict[str, object]) -> None:
    forged = replace(key.sign(HEAD, bytes(32), AT), **other)  # type: ignore[arg-type] # by name
    found = findings([key.sign(HEAD, bytes(32), AT).line(), forged.line()], key)
    assert [finding[:35] for finding in found] == ["heads.jsonl, line 2: is no signed h"]


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"null", b"{", b'{"epoch": 1}', b"\xff", b'{"signature": ""}']
)
def test_any_other_line_is_told_by_its_number(key: SigningKey, line: bytes) -> None:
    assert len(findings([line], key)) == 1


def test_a_member_of_another_type_or_one_more_makes_it_no_head(key: SigningKey) -> None:
    document = json.loads(key.sign(HEAD, bytes(32), AT).line())
    for other in ({"revision": "42"}, {"revision": True}, {"more": 1}, {"chain": "00"}, {"chain": "x" * 64}):
        with pytest.raises(ValueError, match=r".+"):
            SignedHead.parse(json.dumps({**document, **other}).encode())


def test_each_of_the_given_keys_counts_and_no_other(tmp_path: Path, key: SigningKey) -> None:
    newer = SigningKey(a_pair(tmp_path, "newer").private, "AUDIT_KEY_FILE")
    lines = [key.sign(HEAD, bytes(32), AT).line(), newer.sign(HEAD, bytes(32), AT).line()]
    assert findings(lines, key, newer) == []
    assert [finding.split(":")[0] for finding in findings(lines, newer)] == ["heads.jsonl, line 1"]


def test_a_file_that_holds_no_such_key_is_refused_by_name(tmp_path: Path) -> None:
    other = generate_private_key(65537, 2048)
    (tmp_path / "rsa.pem").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "rsa.pub.pem").write_bytes(
        other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "text").write_text("no key")
    for file in ("rsa.pem", "text", "missing", "rsa.pub.pem"):
        with pytest.raises(StartRefused, match=rf"AUDIT_KEY_FILE: .*{file}"):
            SigningKey(tmp_path / file, "AUDIT_KEY_FILE")
    for file in ("rsa.pub.pem", "text", "missing", "rsa.pem"):
        with pytest.raises(StartRefused, match=file):
            public_key(tmp_path / file)
