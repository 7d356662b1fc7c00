"""`resolve --watch`: which URL serves a route, now and after each change of it; and what is said of outages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from traffic_manager.cli import output
from traffic_manager.cli.exits import failure_of
from traffic_manager.cli.output import Format

if TYPE_CHECKING:
    from traffic_manager.client import Client, ClientError, Position, StreamEvent
    from traffic_manager.routing.model import RouteKey


class State(NamedTuple):
    """What serves a route: nothing, if there is no active one."""

    url: str | None = None
    revision: int | None = None


class Notes:
    """Says on stderr when the server is away, and when it is back."""

    def lost(self, error: ClientError) -> None:
        """Say it once for each outage."""
        output.note(f"{failure_of(error).what}; trying again until it is back")

    def back(self, after: Position | str | None) -> None:
        """Say where it goes on."""
        output.note(f"back again; going on after {after}" if after else "back again; beginning anew")


def watch(client: Client, route: RouteKey, form: Format) -> None:
    """Print what serves *route*, now and each time that it is something else, for ever."""
    from traffic_manager.client import Filter, follow

    shown = None
    for state in _states(follow(client, Filter(*route), with_snapshot=True, outages=Notes())):
        if state != shown:
            _show(route, state, form)
        shown = state


def _states(events: Iterator[StreamEvent]) -> Iterator[State]:
    """Yield what serves the route, after the snapshot and after each change."""
    state, is_whole, snapshots = State(), False, 0
    for event in events:
        if event.kind == "snapshot":
            state, is_whole, snapshots = State(), False, snapshots + 1
            if snapshots > 1:
                output.note("cannot go on from where we were; reading the route again")
        elif event.kind == "route":
            state = State(event.document["url"], event.document["revision"])
        elif event.kind == "change":
            change = event.change
            state = State(change.url, change.revision) if change.is_active else State()
        is_whole = is_whole or event.kind == "snapshot-end"
        if is_whole:
            yield state


def _show(route: RouteKey, state: State, form: Format) -> None:
    if form is Format.JSON:
        output.line(output.json_line(route._asdict() | state._asdict()))
    else:
        output.line(output.printable(state.url or ""))
    if state.url is None:
        output.note(f"{route} has no active route; waiting for one")
