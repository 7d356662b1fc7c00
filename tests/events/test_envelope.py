"""The wire format is public: these tests change only together with `docs/events.md`."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.events.fakes import EPOCH, a_change
from traffic_manager.events.envelope import event_of
from traffic_manager.routing.model import Action


def test_the_value_has_exactly_the_published_fields_in_their_order() -> None:
    change = a_change(
        42, action=Action.ACTIVATED, url="https://pay.example.com/v1", occurred_at=1_767_225_600_000_001
    )

    assert event_of(change, EPOCH, 3).value == (
        b'{"event_id":"0f8e5b1c2d3a4e5f8a9b0c1d2e3f4a5b:42","event_type":"route_changed","action":"activated",'
        b'"tenant":"team-a","service":"payments","env":"prod","version":"v1",'
        b'"url":"https://pay.example.com/v1","is_active":true,"revision":42,"epoch_number":3,'
        b'"actor":"alice","occurred_at":"2026-01-01T00:00:00.000001Z","correlation_id":"c-42",'
        b'"address":null,"reason":null}'
    )


def test_a_deletion_has_no_url_and_is_not_active() -> None:
    value = json.loads(event_of(a_change(action=Action.DELETED, url=None, is_active=False), EPOCH, 1).value)

    assert (value["action"], value["url"], value["is_active"]) == ("deleted", None, False)


def test_the_key_is_the_four_names() -> None:
    assert event_of(a_change(), EPOCH, 1).key == b"team-a/payments/prod/v1"


def test_the_headers_are_cloudevents_attributes() -> None:
    change = a_change(7, occurred_at=1_767_225_600_500_000)

    assert dict(event_of(change, EPOCH, 1).headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"0f8e5b1c2d3a4e5f8a9b0c1d2e3f4a5b:7",
        "ce_source": b"traffic-manager",
        "ce_type": b"route_changed",
        "ce_time": b"2026-01-01T00:00:00.500000Z",
        "ce_subject": b"team-a/payments/prod/v1",
        "content-type": b"application/json",
    }


@given(actor=st.text(st.characters(exclude_categories=["Cs"])), revision=st.integers(1, 2**53))
def test_the_same_change_gives_the_same_bytes(actor: str, revision: int) -> None:
    change = a_change(revision, actor=actor)
    event = event_of(change, EPOCH, 1)

    assert event == event_of(change, EPOCH, 1)
    assert json.loads(event.value)["actor"] == actor
