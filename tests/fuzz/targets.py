"""What is fuzzed. A target reads bytes as a server would; it raises if they are taken wrongly, or refused in a way
that nobody expects."""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import structlog
from joserfc.jwk import OKPKey

from tests.access import forge
from traffic_manager.access.admitted import Admitted
from traffic_manager.access.credentials import Credential
from traffic_manager.access.signing_keys import signing_keys_of
from traffic_manager.access.tokens import Tokens
from traffic_manager.api.changes import position_of
from traffic_manager.api.idempotency import idempotency_key_in
from traffic_manager.api.origin import TrustedProxies
from traffic_manager.api.pages import PageTokens
from traffic_manager.api.requests import MAX_DEPTH, parse_json, query_of
from traffic_manager.api.resolve import matches, tags_of
from traffic_manager.cache.route_cache import SCHEMA, _parsed
from traffic_manager.errors import InvalidInput, IssuerUnavailable, TokenRefused
from traffic_manager.routing.follower import Beside
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.model import NAME_FIELDS, Position, RouteKey
from traffic_manager.routing.ports import CachedRoute, Head, Limit, StoredKey, Table
from traffic_manager.routing.table import RouteTable
from traffic_manager.routing.urls import URL_MAX_CHARACTERS, UrlPolicy
from traffic_manager.snapshot import SnapshotFile


def _dropped(_logger: object, _method: str, _event: MutableMapping[str, Any]) -> Any:  # Any: never comes
    raise structlog.DropEvent


# In the place of the log that tells of every snapshot that is refused.
SILENT = structlog.wrap_logger(structlog.PrintLogger(), processors=[_dropped])
_NOW = 1_800_000_000.0
PEPPER = b"0123456789abcdef0123456789abcdef"
KEY = RouteKey.of("team-a", "payments", "prod", "v2")
URL = "https://payments.example.com:8443/v2?a=%20b"
EPOCH = "4be1f0a2" * 4
ASKED = ("team-a", None, None, None, None)


@dataclass(frozen=True)
class Target:
    """Something that reads bytes from outside: *read* does, and takes each of the *seeds*."""

    read: Callable[[bytes], bool]
    seeds: tuple[bytes, ...]


def _text(data: bytes) -> str:
    """Return *data* as a text that may hold anything, half of a surrogate pair too."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _names(data: bytes) -> bool:
    """Four names, with NUL between them."""
    names = _text(data).split("\0")
    if len(names) != len(NAME_FIELDS):
        return False
    try:
        key = RouteKey.of(*names)
    except InvalidInput:
        return False
    text = str(key)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert text.split("/") == names
    assert all(".." not in name and 0 < len(name) <= 128 for name in names)
    return True


def _url(data: bytes) -> bool:
    url = _text(data)
    if UrlPolicy().problem(url) is not None:
        return False
    assert url.isascii()
    assert url.isprintable()
    assert len(url) <= URL_MAX_CHARACTERS
    parts = urlsplit(url)
    authority = url.split("://", 1)[1].replace("?", "/").split("/")[0]
    assert (parts.scheme, parts.netloc) == (url.partition(":")[0], authority)
    assert (parts.username, parts.password, parts.fragment) == (None, None, "")
    assert parts.hostname
    assert parts.port is None or 0 < parts.port < 65536
    return True


def _json(data: bytes) -> bool:
    """A body: taken only if every reader understands it the same way."""
    try:
        document = parse_json(data)
    except InvalidInput:
        return False
    assert isinstance(document, dict)
    assert document == json.loads(data.decode())
    assert _depth(document) <= MAX_DEPTH
    orjson.dumps(document)  # has no half of a surrogate pair, no NaN and no integer that others round
    assert "\0" not in str(document)
    return True


def _depth(document: object) -> int:
    if isinstance(document, dict | list):
        values = document.values() if isinstance(document, dict) else document
        return 1 + max(map(_depth, values), default=0)
    return 0


def _query(data: bytes) -> bool:
    try:
        found = query_of(data, ("tenant", "service", "page_token"))
    except InvalidInput:
        return False
    assert set(found) <= {"tenant", "service", "page_token"}
    return True


def _page_token(data: bytes) -> bool:
    """A page token: taken only if we made it."""
    text, taken = _text(data), False
    tokens = _page_tokens()
    for read in (tokens.key_after, tokens.revision_below, tokens.id_after):
        try:
            place = read(text, ASKED)
        except InvalidInput:
            continue
        assert place is not None
        assert tokens.token_of(place, ASKED) == text
        taken = True
    return taken


@cache
def _page_tokens() -> PageTokens:
    return PageTokens(PEPPER)


def _position(data: bytes) -> bool:
    text = _text(data)
    try:
        position = position_of(text, "after")
    except InvalidInput:
        return False
    assert 0 <= position.revision < 10**18
    assert text.isascii()
    assert not position.epoch8 or str(position) == text
    return True


def _headers(data: bytes) -> bool:
    """What headers hold: tags, idempotency keys, and whom a proxy was asked by."""
    taken = False
    with suppress(InvalidInput):
        taken = tags_of(data.decode("latin-1"), "If-Match") is not None
    with suppress(InvalidInput):
        key = idempotency_key_in([(b"idempotency-key", data)])
        assert key is not None
        assert key.isascii()
        assert key.isprintable()
        assert 0 < len(key) <= 255
        taken = True
    matches(data, b'"4be1f0a2.42"')
    for header in ("x-forwarded-for", "forwarded"):
        address = _proxies(header).address_of(("10.0.0.1", 1), [(header.encode(), data)])
        assert address.isascii()
        assert address.isprintable()
        assert len(address) < 64
        taken = taken or address != "10.0.0.1"
    return taken


@cache
def _proxies(header: str) -> TrustedProxies:
    return TrustedProxies(["10.0.0.0/8"], "forwarded" if header == "forwarded" else "x-forwarded-for")


def _credential(data: bytes) -> bool:
    """An API key: taken only in the one form that it is shown in."""
    found = Credential.parse(data)
    if found is None:
        return False
    assert str(found).encode() == data
    assert len(found.digest(PEPPER)) == 32
    return True


def _token(data: bytes) -> bool:
    """A token that its issuer has signed, whatever is in it: header and claims, with NUL between them."""
    header, _, claims = data.partition(b"\0")
    with warnings.catch_warnings(action="ignore"):
        text = forge.token(claims, _signer(), "EdDSA", header)
        try:
            principal = _tokens().principal_of(text)
        except (TokenRefused, IssuerUnavailable):
            return False
    found = orjson.loads(claims)
    assert found["iss"] == forge.URL
    assert forge.AUDIENCE in found["aud"]
    assert found["exp"] > _NOW
    assert principal.name == f"token:corp/{found['sub']}"
    assert orjson.loads(header)["alg"] == "EdDSA"
    return True


def _signing_keys(data: bytes) -> bool:
    """What an issuer publishes."""
    try:
        found = signing_keys_of(data)
    except ValueError:
        return False
    assert found
    assert all(isinstance(kid, str) and key.algorithms for kid, key in found.items())
    return True


@cache
def _signer() -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": "o1"})


@cache
def _tokens() -> Tokens:
    tokens = Tokens([forge.an_issuer()], Admitted(lambda: _NOW))
    tokens.learn(forge.an_issuer(), signing_keys_of(orjson.dumps(forge.jwks(_signer()))))
    return tokens


def _redis_entry(data: bytes) -> bool:
    """An entry of Redis, behind its signature."""
    entry = _parsed(KEY, data)
    if not isinstance(entry, CachedRoute):
        assert entry in ("malformed", "schema", "key")
        return False
    assert orjson.loads(data)[2] == str(KEY)
    assert 0 <= entry.revision <= entry.as_of
    assert entry.url is None or (isinstance(entry.url, str) and entry.url)
    return True


def _snapshot(data: bytes) -> bool:
    """The table on disk, with a digest that fits: else nothing of it is read."""
    file, path = _snapshot_file()
    path.write_bytes(data + hashlib.sha256(data).digest())
    found = file.read()
    if found is None:
        return False
    assert found.table.head.revision >= 0
    return True


@cache
def _snapshot_file() -> tuple[SnapshotFile, Path]:
    path = Path(_folder().name) / "snapshot"
    return SnapshotFile(path, "db"), path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _a_snapshot() -> bytes:
    mirror, entries = Mirror(max_routes=100), RouteTable()
    entries.load((f"team-a/s{n}/prod/v1", f"https://s{n}.example.com/", n) for n in range(3))
    mirror.load(Table(Head(EPOCH, 1, 9), bytes(32), entries, (), 9))
    file, path = _snapshot_file()
    key = StoredKey("id", "alice", bytes(32), '[["viewer","*","*"]]', 1_900_000_000_000_000)
    file.write(mirror, Beside([key], [Limit("tenant", "team-a", writes=5)]), 1.5)
    return path.read_bytes()[:-32]


@cache
def targets() -> dict[str, Target]:
    """Return all of them by name."""
    tokens = _page_tokens()
    entry = [SCHEMA, EPOCH, str(KEY), 9, 5, URL]
    return {
        "names": Target(_names, (b"team-a\0payments\0prod\0v2", b"A\0b.c_d~e+f-g\x000\0" + b"n" * 128)),
        "urls": Target(
            _url, (URL.encode(), b"http://[2001:db8::1]:80/", b"https://xn--bcher-kva.example/a;b=c")
        ),
        "json": Target(
            _json, (b'{"a": [1, 2.5, null, true, {"b": "\\u00e9\\ud83d\\ude00"}]}', b'{"tenant": "team-a"}')
        ),
        "queries": Target(_query, (b"tenant=team-a&service=a%20b", b"page_token=abc&tenant=a+b")),
        "page tokens": Target(
            _page_token,
            (
                tokens.token_of(KEY, ASKED).encode(),
                tokens.token_of(7, ASKED).encode(),
                tokens.token_of("id", ASKED).encode(),
            ),
        ),
        "positions": Target(_position, (b"4be1f0a2.42", b"42", str(Position("0" * 8, 10**17)).encode())),
        "headers": Target(
            _headers,
            (b'"a.1", W/"b.2"', b"*", b'"8e03978e-40d5"', b"192.0.2.1, 10.0.0.2", b'for="[2001:db8::1]:80"'),
        ),
        "credentials": Target(
            _credential, (b"tmk_000000000000_" + b"0" * 43 + b"_" + _check(b"0" * 12, b"0" * 43),)
        ),
        "tokens": Target(_token, (b'{"alg":"EdDSA","kid":"o1"}\0' + orjson.dumps(forge.claims(_NOW)),)),
        "signing keys": Target(_signing_keys, (orjson.dumps(forge.jwks(_signer())),)),
        "redis entries": Target(_redis_entry, (orjson.dumps(entry), orjson.dumps([*entry[:5], None]))),
        "snapshots": Target(_snapshot, (_a_snapshot(),)),
    }


def _check(key_id: bytes, secret: bytes) -> bytes:
    """Return the check of a key."""
    return str(Credential(key_id.decode(), b"tmk_%b_%b" % (key_id, secret))).encode()[-6:]
