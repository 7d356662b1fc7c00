"""What a worker says when a bug ends what it does beside serving."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from tests.routing.builders import on_a_loop
from traffic_manager.config.loading import load_settings
from traffic_manager.db.migrate import migrate
from traffic_manager.inheritance import empty_memory
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.monitoring.overload import Overload
from traffic_manager.worker import Worker


@on_a_loop
async def test_bug_that_ends_the_upkeep_is_told_of_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_self: Overload) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Overload, "watch", broken)
    monkeypatch.setenv("DB_PATH", str(tmp_path / "routes.db"))
    settings = load_settings(env_file=None)
    migrate(settings.db)
    worker = Worker(settings, Metrics(), empty_memory(settings))
    with capture_logs() as logs:
        async with worker._lifespan(FastAPI()), asyncio.timeout(10):
            while not any(line["event"] == "upkeep_failed" for line in logs):  # noqa: ASYNC110 a log sets no event
                await asyncio.sleep(0.01)
