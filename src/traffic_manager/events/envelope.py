"""The public wire format of an event: what `docs/events.md` promises to consumers.

The same change always gives the same bytes, so a duplicate can be recognised by comparing them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from traffic_manager.routing.model import Action, Change, RouteKey, Trace, rfc3339
from traffic_manager.routing.ports import Head

EVENT_TYPE = "route_changed"
SOURCE = "traffic-manager"
# Who acts where nobody did.
OURSELVES = "traffic-manager"
CONTENT_TYPE = b"application/json"


@dataclass(frozen=True, slots=True)
class Event:
    """A Kafka record without topic and partition. Records of one route have one *key*, so Kafka keeps their
    order."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def event_of(change: Change, epoch: str, epoch_number: int, trace: Trace | None = None) -> Event:
    """Return the event that tells of *change* in the history *epoch*, the *epoch_number*th one. *trace*: what the
    change is a part of, for consumers to go on with."""
    event = _event(change, f"{epoch}:{change.revision}", epoch_number)
    return event if trace is None else replace(event, headers=event.headers + _trace_headers(trace))


def gone_event(key: RouteKey, head: Head, now: int) -> Event:
    """Return the event that tells that there is no route *key* at *head*: only a lost branch had it. *now* is in
    microseconds since 1970."""
    gone = Change(
        revision=head.revision,
        batch_end=head.revision,
        key=key,
        action=Action.DELETED,
        url=None,
        is_active=False,
        previous=None,
        actor=OURSELVES,
        reason=None,
        correlation_id=OURSELVES,
        occurred_at=now,
    )
    # The head's own change has the short id.
    return _event(gone, f"{head.epoch}:{head.revision}:{key}", head.epoch_number)


def _event(change: Change, event_id: str, epoch_number: int) -> Event:
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
            "address": change.address,
            "reason": change.reason,
        }
    )


def _trace_headers(trace: Trace) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of W3C Trace Context: the change's own, not of how it is sent, so each time the same."""
    state = (("tracestate", trace.state.encode()),) if trace.state else ()
    return (("traceparent", trace.parent.encode()), *state)


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
