"""The written form of API keys."""

from __future__ import annotations

import re

import pytest

from tests.access.builders import PEPPER
from traffic_manager.access.credentials import Credential


def test_key_has_the_documented_form_and_reads_back() -> None:
    credential = Credential.new()
    assert re.fullmatch(r"tmk_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", str(credential))
    assert Credential.parse(str(credential).encode()) == credential


def test_no_two_keys_are_alike() -> None:
    keys = [Credential.new() for _ in range(1000)]
    assert len({key.key_id for key in keys}) == 1000
    assert len({key.signed[17:] for key in keys}) == 1000


def test_every_mistyped_character_is_noticed_without_asking_anybody() -> None:
    written = str(Credential.new())
    for place, character in enumerate(written):
        wrong = "A" if character != "A" else "B"
        assert Credential.parse((written[:place] + wrong + written[place + 1 :]).encode()) is None


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "tmk_", "tmk", "Bearer", "\x00" * 67, "é" * 67, "tmk_" + "a" * 63),
        "{key}\n",
        " {key}",
        "{key}{key}",
    ],
)
def test_anything_else_is_no_key(pattern: str) -> None:
    assert Credential.parse(pattern.format(key=Credential.new()).encode()) is None


def test_key_in_capitals_is_no_key() -> None:
    assert Credential.parse(str(Credential.new()).upper().encode()) is None


def test_digest_depends_on_id_secret_and_pepper() -> None:
    credential = Credential.new()
    other_id = Credential("a" * 12, credential.signed.replace(credential.key_id.encode(), b"a" * 12))
    digests = {
        credential.digest(PEPPER),
        credential.digest(b"another pepper"),
        other_id.digest(PEPPER),
        Credential.new().digest(PEPPER),
    }
    assert len(digests) == 4
    assert all(len(digest) == 32 for digest in digests)
