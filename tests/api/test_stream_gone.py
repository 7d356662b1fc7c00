"""A stream whose next changes nobody keeps any more: it ends and says why, it does not pass over them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast
from unittest.mock import Mock

import pytest

from tests.routing.builders import EPOCH, OTHER_EPOCH, on_a_loop
from traffic_manager.api import stream as stream_module
from traffic_manager.api.context import Parts
from traffic_manager.errors import HistoryGone
from traffic_manager.routing.ports import NameFilter
from traffic_manager.routing.watchers import Ending, Watchers


@pytest.mark.parametrize(
    ("epoch", "ending"), [(EPOCH, Ending.HISTORY_GONE), (OTHER_EPOCH, Ending.HISTORY_CHANGED)]
)
def test_stream_ends_where_the_changes_that_follow_are_no_longer_kept(
    epoch: str, ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise HistoryGone("5", f"{epoch[:8]}.9", "they are no longer kept")

    @on_a_loop
    async def run() -> None:
        monkeypatch.setattr(stream_module, "read_in_turn", gone)
        watcher = Watchers(1).watching(NameFilter(), 5)
        settings = SimpleNamespace(watch=SimpleNamespace(life_seconds=60.0))
        parts = cast("Parts", SimpleNamespace(settings=settings, metrics=Mock()))
        stream = stream_module._Stream(parts, watcher, EPOCH[:8], Mock(), Mock())
        assert await stream._older() is None
        assert (watcher.ending, watcher.position) == (ending, 5)

    run()
