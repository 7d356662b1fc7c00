"""Signed heads: what the digest of the log was at a revision, in a form that only the holder of the key can make.

Whoever can write to the tables can write the log anew, with digests that follow. Not so where a head was kept
elsewhere. One head is one line of JSON, in a file and in Kafka alike.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from traffic_manager.errors import StartRefused
from traffic_manager.routing.ports import Head

# The first member of what is signed: a signature for something else is none for a head.
_PURPOSE = "traffic-manager-head-1"


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The digest *chain* (hex) of the log at *revision* of a history, as it was at *signed_at* (RFC 3339). *key_id*
    names the key."""

    epoch: str
    epoch_number: int
    revision: int
    chain: str
    signed_at: str
    key_id: str
    signature: str = ""

    @property
    def digest(self) -> bytes:
        """The digest of the log."""
        return bytes.fromhex(self.chain)

    @property
    def signed(self) -> bytes:
        """What the signature is over: all members but itself, as a compact JSON array."""
        members = [getattr(self, name) for name in _SIGNED]
        return orjson.dumps([_PURPOSE, *members])

    def line(self) -> bytes:
        """Return it as it is kept."""
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def parse(cls, line: bytes) -> SignedHead:
        """Return the head of a line. Raises ValueError if it is none."""
        members = orjson.loads(line)
        kinds = {field.name: int if field.type == "int" else str for field in fields(cls)}
        if not isinstance(members, dict) or members.keys() != kinds.keys():
            raise ValueError("other members than a head has")
        if any(type(members[name]) is not kind for name, kind in kinds.items()):
            raise ValueError("members of other types than a head has")
        head = cls(**members)
        if len(head.digest) != sha256().digest_size:
            raise ValueError("a digest of another size")
        return head


_SIGNED = tuple(field.name for field in fields(SignedHead) if field.name != "signature")


class SigningKey:
    """The private key of *file* (PEM, Ed25519). Raises StartRefused that names *variable* if there is none."""

    def __init__(self, file: Path, variable: str) -> None:
        try:
            key = load_pem_private_key(file.read_bytes(), password=None)
        except OSError as error:
            raise StartRefused(f"{variable}: cannot read {file}: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StartRefused(
                f"{variable}: {file} holds no private key in PEM without a password"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StartRefused(f"{variable}: {file} holds a key, but none of Ed25519")
        self._key = key
        self.public = key.public_key()
        self.id = id_of(self.public)

    def sign(self, head: Head, chain: bytes, signed_at: str) -> SignedHead:
        """Return *head*, where the digest is *chain*, signed."""
        unsigned = SignedHead(head.epoch, head.epoch_number, head.revision, chain.hex(), signed_at, self.id)
        signature = b64encode(self._key.sign(unsigned.signed)).decode()
        return SignedHead.parse(orjson.dumps(asdict(unsigned) | {"signature": signature}))


def id_of(key: Ed25519PublicKey) -> str:
    """Return what names a key: the beginning of the SHA-256 of it, in hex."""
    return sha256(key.public_bytes_raw()).hexdigest()[:16]


def public_key(file: Path) -> Ed25519PublicKey:
    """Return the public key of *file* (PEM). Raises StartRefused if there is none of Ed25519."""
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise StartRefused(f"{file}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StartRefused(f"{file} holds no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise StartRefused(f"{file} holds a key, but none of Ed25519")
    return key


@dataclass
class KeptHeads:
    """Heads as they were kept, each signed by a key that is known, and what is wrong with the other lines."""

    heads: Sequence[SignedHead]
    findings: Sequence[str]

    @property
    def newest(self) -> SignedHead | None:
        """The head that reaches furthest, None without any."""
        return max(self.heads, key=lambda head: (head.epoch_number, head.revision), default=None)


def read(lines: Iterable[bytes], source: str, keys: Sequence[Ed25519PublicKey]) -> KeptHeads:
    """Return the heads of *lines*, which come from *source*."""
    by_id = {id_of(key): key for key in keys}
    heads, findings = [], []
    for number, line in enumerate(lines, 1):
        try:
            head = SignedHead.parse(line)
            _check(head, by_id)
            heads.append(head)
        except ValueError as error:
            findings.append(f"{source}, line {number}: is no signed head: {error}")
    if not heads and not findings:
        findings.append(f"{source}: holds no signed head")
    return KeptHeads(heads, findings)


def _check(head: SignedHead, keys: dict[str, Ed25519PublicKey]) -> None:
    """Raise ValueError unless one of *keys* has signed *head*."""
    key = keys.get(head.key_id)
    if key is None:
        raise ValueError(f"its key {head.key_id[:16]!r} is not one of those given")
    try:
        key.verify(b64decode(head.signature, validate=True), head.signed)
    except InvalidSignature:
        raise ValueError("its signature is wrong") from None
