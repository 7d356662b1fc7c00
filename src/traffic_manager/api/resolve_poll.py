"""The long poll of one route: resolve waits until that route changes, and for nothing else."""

from __future__ import annotations

from traffic_manager.access.permissions import Principal
from traffic_manager.api.context import Parts
from traffic_manager.routing.model import Position, RouteKey
from traffic_manager.routing.ports import NameFilter
from traffic_manager.routing.resolver import Answer


def not_older(answer: Answer, after: Position) -> Position | None:
    """Return the revision that the answer to a poll must not be older than, None if *answer* is good: whoever asks
    knows *after* already, perhaps from another node, and must not be shown an older state."""
    if after.epoch8 in ("", answer.epoch8) and after.revision > answer.as_of:
        return Position(answer.epoch8, after.revision)
    return None


async def wait_for_change(
    parts: Parts, caller: Principal, key: RouteKey, answer: Answer, after: Position | None, wait_s: float
) -> bool:
    """Return when the route has changed since *after* (None: since *answer*), or time is up. False at once if it has
    changed by now, if that cannot be known any more, or if *after* is of another history."""
    if after is not None and not _is_unchanged(parts, key, answer, after):
        return False
    with parts.watching(caller, NameFilter(*key), answer.as_of) as watcher:
        await watcher.next(wait_s)
    parts.gate.recheck(caller)
    return True


def _is_unchanged(parts: Parts, key: RouteKey, answer: Answer, after: Position) -> bool:
    if after.epoch8 not in ("", answer.epoch8):
        return False
    if answer.entry is not None:
        return answer.entry.revision <= after.revision
    return parts.mirror.accept(str(key), after.revision)
