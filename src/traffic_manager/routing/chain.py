"""The digest that chains every change to all changes before it: tamper evidence and fork detection.

Version 1: SHA-256 over the digest before (32 zero bytes at first) and the change as a compact JSON array of
its columns in the order of the table, UTF-8, times in integer microseconds. Both engines give the same.
Version 2, of changes of other kinds than routes, has the column `detail` after the others. Version 3, of changes of
which it is known from which address they were made, has `detail` and `address`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from traffic_manager.routing.model import Change

CHAIN_VERSION = 1
DETAIL_CHAIN_VERSION = 2
ADDRESS_CHAIN_VERSION = 3
CHAIN_START = bytes(32)
ROUTE_KIND = "route"
KEY_KIND = "key"
LIMIT_KIND = "limit"


def next_link(previous: bytes, change: Change) -> bytes:
    """Return the digest after *change*, given the digest before it."""
    return link(previous, covered(columns_of(change), None, change.address, version_of(change)))


def version_of(change: Change) -> int:
    """Return the version of the digest of *change*: the oldest that covers it, which older programs know, too."""
    return CHAIN_VERSION if change.address is None else ADDRESS_CHAIN_VERSION


def covered(
    columns: list[Any], detail: str | None, address: str | None, version: int
) -> list[Any]:  # Any: as in columns_of
    """Return all columns that a digest of *version* covers: *columns*, and what it has beyond them."""
    if version == CHAIN_VERSION:
        return columns
    return [*columns, detail] if version == DETAIL_CHAIN_VERSION else [*columns, detail, address]


def link(previous: bytes, columns: Sequence[Any]) -> bytes:  # Any: as in columns_of
    """Return the digest after the change with these *columns*, given the digest before it."""
    return hashlib.sha256(previous + orjson.dumps(columns)).digest()


def columns_of(change: Change) -> list[Any]:  # Any: a row's values are of several types
    """Return the change as the values of its row: revision, batch_end, kind, tenant, service, env, version,
    action, url, is_active, previous, actor, reason, correlation_id, occurred_at."""
    return [
        change.revision,
        change.batch_end,
        ROUTE_KIND,
        *change.key,
        change.action.value,
        change.url,
        change.is_active,
        change.previous,
        change.actor,
        change.reason,
        change.correlation_id,
        change.occurred_at,
    ]
