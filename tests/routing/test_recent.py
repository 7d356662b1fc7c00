"""The part of the table that a bounded mirror holds."""

from __future__ import annotations

import pytest

from traffic_manager.routing import recent as recent_module
from traffic_manager.routing.recent import RecentRoutes


def test_name_without_a_route_is_looked_up_again_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(recent_module, "monotonic", lambda: now_s)
    recent = RecentRoutes(10, absence_ttl_s=10.0)
    recent.put("team-a/payments/prod/v2", None)
    assert recent.is_absent("team-a/payments/prod/v2")
    now_s = 10.1
    assert not recent.is_absent("team-a/payments/prod/v2")
