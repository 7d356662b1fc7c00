"""Sends a change again until it is answered: under one idempotency key, so it is made once."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from traffic_manager.client.backoff import full_jitter_s
from traffic_manager.client.errors import Unavailable, Unreachable

T = TypeVar("T")


def new_idempotency_key() -> str:
    """Return a name that no other request has."""
    return str(uuid.uuid4())


def until_answered(attempt: Callable[[], T], retry_s: float) -> T:
    """Return what *attempt* returns. It is made again, for up to *retry_s* after the first failure, if the server was
    reached and gave no answer, or cannot do it now. Raises what the last attempt raises; if one before it may have
    been carried out, what that raised."""
    give_up_at, was_reached, unknown = 0.0, False, None
    for number in count():
        try:
            return attempt()
        except (Unreachable, Unavailable) as error:
            give_up_at = give_up_at or time.monotonic() + retry_s
            was_reached |= isinstance(error, Unavailable) or error.may_be_done
            unknown = error if _may_be_done(error) else unknown
            wait_s = _wait_s(error, number)
            if not was_reached or time.monotonic() + wait_s > give_up_at:
                raise unknown or error from None
        time.sleep(wait_s)
    raise AssertionError("it is counted for ever")


def _may_be_done(error: Unreachable | Unavailable) -> bool:
    return error.may_be_done if isinstance(error, Unreachable) else error.problem.may_be_done


def _wait_s(error: Unreachable | Unavailable, number: int) -> float:
    """Return how long to wait: as long as the server says, and a little at random."""
    asked_s = error.problem.retry_after_s if isinstance(error, Unavailable) else None
    return (asked_s or 0.0) + full_jitter_s(number)
