"""Follows the changes as they happen, over as many connections as that takes: each event once, none lost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Protocol

from traffic_manager.client.backoff import full_jitter_s
from traffic_manager.client.errors import ClientError, Unavailable, Unreachable
from traffic_manager.client.http import Client
from traffic_manager.client.model import Filter, Position, StreamEvent

_BACKOFF_BASE_S = 0.5
_BACKOFF_CAP_S = 30.0


class Outages(Protocol):
    """Is told when the server is away."""

    def lost(self, error: ClientError) -> None:
        """The server is away since now; it will be tried again until it is back."""

    def back(self, after: Position | str | None) -> None:
        """It is back, and the stream goes on after *after*, or from the beginning if that is None."""


def follow(
    client: Client,
    wanted: Filter,
    after: Position | str | None = None,
    *,
    with_snapshot: bool = False,
    outages: Outages | None = None,
) -> Iterator[StreamEvent]:
    """Yield the events of the stream for ever, without its `end`s. *after* None: from now on.

    *with_snapshot*: first the active routes that match; also again, beginning with another `snapshot`, if the server
    cannot go on from where it was. Without it that raises HistoryGone. A server that cannot be reached at the very
    start raises, too; later it is waited for.
    """
    failures, was_reached = 0, False
    while True:
        pause_s = full_jitter_s(0)  # if it ends without a word
        try:
            for event in client.events(wanted, after, with_snapshot=with_snapshot):
                if failures and outages:
                    outages.back(after)
                failures, was_reached = 0, True
                if event.kind == "end":
                    pause_s = random.uniform(0, event.retry_ms / 1000)  # noqa: S311
                else:
                    yield event
                after = event.position or after
        except (Unreachable, Unavailable) as error:
            if not was_reached:
                raise
            if failures == 0 and outages:
                outages.lost(error)
            pause_s = full_jitter_s(failures, base_s=_BACKOFF_BASE_S, cap_s=_BACKOFF_CAP_S)
            failures += 1
        time.sleep(pause_s)
