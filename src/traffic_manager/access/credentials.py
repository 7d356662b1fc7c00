"""The written form of an API key: `tmk_<id>_<secret>_<check>`.

The prefix lets scanners find keys that leaked, the check lets everybody tell a real one from a mistyped one
without asking anybody. The secret has 256 bits from the system's random source, so a fast keyed hash of it is as
good as a slow one; that hash, under the server's pepper, is all that is ever stored.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from typing import NamedTuple, Self

ID_CHARACTERS = 12
SECRET_CHARACTERS = 43  # 62 ** 43 is above 2 ** 256
CHECK_CHARACTERS = 6

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_is_written = re.compile(
    rb"tmk_([0-9A-Za-z]{%d})_[0-9A-Za-z]{%d}_([0-9A-Za-z]{%d})"
    % (ID_CHARACTERS, SECRET_CHARACTERS, CHECK_CHARACTERS)
).fullmatch
_is_id = re.compile(rf"[0-9A-Za-z]{{{ID_CHARACTERS}}}", re.ASCII).fullmatch


def is_key_id(text: str) -> bool:
    """Return whether *text* can be the id of a key."""
    return _is_id(text) is not None


class Credential(NamedTuple):
    """A key as its owner shows it: *key_id* is public, *signed* is all of it before the check."""

    key_id: str
    signed: bytes

    @classmethod
    def new(cls) -> Self:
        """Return a key that nobody has."""
        key_id = _random(ID_CHARACTERS)
        return cls(key_id, f"tmk_{key_id}_{_random(SECRET_CHARACTERS)}".encode())

    @classmethod
    def parse(cls, text: bytes) -> Self | None:
        """Return the key, None if *text* cannot be one: another form, or a check that does not fit."""
        match = _is_written(text)
        signed = text[: -CHECK_CHARACTERS - 1]
        if match is None or match[2] != _check(signed):
            return None
        return cls(match[1].decode(), signed)

    def digest(self, pepper: bytes) -> bytes:
        """Return what is stored of it. It covers the id, so that a row's digest is of no use in another row."""
        return hmac.digest(pepper, self.signed, "sha256")

    def __str__(self) -> str:
        return (self.signed + b"_" + _check(self.signed)).decode()


def _random(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _check(signed: bytes) -> bytes:
    """Return the CRC-32 in base 62."""
    rest, written = zlib.crc32(signed), ""
    for _ in range(CHECK_CHARACTERS):
        rest, digit = divmod(rest, len(_DIGITS))
        written = _DIGITS[digit] + written
    return written.encode()
