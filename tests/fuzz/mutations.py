"""Damages good bytes, the same way each time: for machines without a fuzzer that is guided by coverage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

# What has broken a reader somewhere.
_TOKENS = (
    b"\0", b"\r\n", b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"..", b"%00", b"%2e", b"\\", b'"', b"{", b"[",
    b"]", b",", b":", b"@", b"#", b"//", b"-1", b"1e999", b"NaN", b"null", b"true", b"18446744073709551616",
    b"9" * 400, b"\xe2\x80\xa8", b"=", b"\xef\xbc\x8e", b"\xe2\x84\xaa", b"\t", b"[::1]", b"127.1", b"0x7f",
    b"\\ud800", b"\\u0000",
)  # fmt: skip
_MAX_BYTES = 4096


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield *count* damaged ones of *seeds*, and of what became of them."""
    chance = Random(seed)
    pool = list(seeds)
    for _ in range(count):
        data = bytearray(chance.choice(pool))
        for _ in range(chance.randrange(1, 5)):
            _damage(data, chance, pool)
        found = bytes(data[:_MAX_BYTES])
        if chance.random() < 0.05:
            pool[chance.randrange(len(seeds), len(pool) + 1) :] = [found]
        yield found


def _damage(data: bytearray, chance: Random, pool: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.randrange(1, 9))
    match chance.randrange(6):
        case 0:
            data[at:at] = chance.choice(_TOKENS)
        case 1:
            del data[at:to]
        case 2:
            data[at:to] = chance.choice(_TOKENS)
        case 3:
            data[at:at] = data[at:to] * chance.randrange(1, 30)
        case 4:
            other = chance.choice(pool)
            data[at:] = other[min(at, len(other)) :]
        case _:
            data[at : at + 1] = bytes([chance.randrange(256)])
