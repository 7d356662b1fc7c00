"""The table on disk: what a node answers from that starts while its database is away.

A file is written whole or not at all, the one before is kept, and neither is believed unless its digest is right.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import orjson
import structlog

from traffic_manager.routing.follower import Beside
from traffic_manager.routing.mirror import Mirror
from traffic_manager.routing.ports import Head, Limit, StoredKey, Table
from traffic_manager.routing.table import RouteTable

_FORMAT = 1
_DIGEST_BYTES = 32
_BLOCK_BYTES = 1024 * 1024
# No name and no URL holds one.
_BETWEEN = "\t"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A complete table with the API keys and limits of its time (None: nobody was asked for keys). *seen_at*: when it
    was last known to be up to date, in seconds since 1970."""

    table: Table
    beside: Beside
    seen_at: float


class SnapshotFile:
    """The snapshot of the database *source* in the file *path*, and the one before beside it. For one process."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._before = path.with_name(path.name + ".before")
        self._source = source

    def write(self, mirror: Mirror, beside: Beside, seen_at: float) -> None:
        """Keep a complete *mirror*. Raises OSError; then what was kept before still is."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_name(self._path.name + ".unfinished")
        # It holds digests of keys: for its owner alone.
        with open(unfinished, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            digest = hashlib.sha256()
            for part in _document(self._source, mirror, beside, seen_at):
                file.write(part)
                digest.update(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.replace(self._path, self._before)
        os.replace(unfinished, self._path)
        _sync_folder(self._path.parent)

    def read(self) -> Snapshot | None:
        """Return the newest snapshot that is whole and of our database, None if there is none."""
        for path in (self._path, self._before):
            try:
                return self._read(path)
            except FileNotFoundError:
                continue
            except Exception as error:
                # Whatever is wrong with a file, no server stays down for it: the database has all that is in it.
                log.error("snapshot_not_usable", path=str(path), reason=str(error) or repr(error))
        return None

    def remove(self) -> None:
        """Remove both generations; tell if that is impossible."""
        for path in (self._path, self._before):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.error("snapshot_not_removed", path=str(path), reason=str(error))

    def _read(self, path: Path) -> Snapshot:
        with path.open("rb") as file:
            _check_digest(file)
            about = orjson.loads(file.readline())
            if (about["format"], about["source"]) != (_FORMAT, self._source):
                raise ValueError("it is of another format or database")
            if about["routes"] > os.fstat(file.fileno()).st_size:
                raise ValueError("it cannot hold as many routes as it says")
            entries = RouteTable(about["routes"])
            entries.load(_routes(file, about["routes"]))
        head = Head(about["epoch"], about["epoch_number"], about["revision"])
        table = Table(head, bytes.fromhex(about["chain"]), entries, (), head.revision)
        # Files of versions before limits have none.
        limits = [Limit(**limit) for limit in about.get("limits") or ()]
        return Snapshot(table, Beside(_keys(about["keys"]), limits), about["seen_at"])


def _document(source: str, mirror: Mirror, beside: Beside, seen_at: float) -> Iterator[bytes]:
    """Yield a line of facts, and one for each route."""
    assert mirror.head is not None  # noqa: S101 a complete mirror has one
    about = {
        "format": _FORMAT,
        "source": source,
        "epoch": mirror.head.epoch,
        "epoch_number": mirror.head.epoch_number,
        "revision": mirror.applied,
        "chain": mirror.chain.hex(),
        "seen_at": seen_at,
        "routes": len(mirror),
        "keys": None if beside.keys is None else [_key_json(key) for key in beside.keys],
        "limits": [asdict(limit) for limit in beside.limits or ()],
    }
    yield orjson.dumps(about) + b"\n"
    for portion in mirror.portions(""):
        lines = (f"{key}{_BETWEEN}{entry.url}{_BETWEEN}{entry.revision}\n" for key, entry in portion)
        yield "".join(lines).encode()


def _key_json(key: StoredKey) -> Mapping[str, object]:
    return {
        "id": key.id,
        "owner": key.owner,
        "digest": key.digest.hex(),
        "grants": key.grants,
        "expires_at": key.expires_at,
    }


def _keys(found: Iterable[dict[str, Any]] | None) -> list[StoredKey] | None:  # Any: JSON values
    if found is None:
        return None
    return [StoredKey(**{**key, "digest": bytes.fromhex(key["digest"])}) for key in found]


def _routes(file: IO[bytes], count: int) -> Iterator[tuple[str, str, int]]:
    for _ in range(count):
        key, url, revision = file.readline().decode().split(_BETWEEN)
        yield key, url, int(revision)


def _check_digest(file: IO[bytes]) -> None:
    """Raise ValueError unless the file ends with the digest of all before. Leaves the file at its beginning."""
    left = file.seek(0, os.SEEK_END) - _DIGEST_BYTES
    file.seek(0)
    digest = hashlib.sha256()
    while left > 0:
        block = file.read(min(left, _BLOCK_BYTES))
        digest.update(block)
        left -= len(block)
    if file.read() != digest.digest():
        raise ValueError("it is damaged")
    file.seek(0)


def _sync_folder(folder: Path) -> None:
    """Make the new names last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
