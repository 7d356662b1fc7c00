"""The public wire format of an event: what `docs/events.md` promises to consumers.

The same change always gives the same bytes, so a duplicate can be recognised by comparing them.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from traffic_manager.routing.model import Change, rfc3339

EVENT_TYPE = "route_changed"
SOURCE = "traffic-manager"
CONTENT_TYPE = b"application/json"


@dataclass(frozen=True, slots=True)
class Event:
    """A Kafka record without topic and partition. Records of one route have one *key*, so Kafka keeps their
    order."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def event_of(change: Change, epoch: str, epoch_number: int) -> Event:
    """Return the event that tells of *change* in the history *epoch*, the *epoch_number*th one."""
    event_id = f"{epoch}:{change.revision}"
    return Event(
        key=str(change.key).encode(),
        value=_value(change, event_id, epoch_number),
        headers=_headers(change, event_id),
    )


def _value(change: Change, event_id: str, epoch_number: int) -> bytes:
    tenant, service, env, version = change.key
    return orjson.dumps(
        {
            "event_id": event_id,
            "event_type": EVENT_TYPE,
            "action": change.action.value,
            "tenant": tenant,
            "service": service,
            "env": env,
            "version": version,
            "url": change.url,
            "is_active": change.is_active,
            "revision": change.revision,
            "epoch_number": epoch_number,
            "actor": change.actor,
            "occurred_at": rfc3339(change.occurred_at),
            "correlation_id": change.correlation_id,
        }
    )


def _headers(change: Change, event_id: str) -> tuple[tuple[str, bytes], ...]:
    """Return the attributes of CloudEvents 1.0 in the binary mode of its Kafka protocol binding."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_type", EVENT_TYPE.encode()),
        ("ce_time", rfc3339(change.occurred_at).encode()),
        ("ce_subject", str(change.key).encode()),
        ("content-type", CONTENT_TYPE),
    )
