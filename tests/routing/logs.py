"""Random logs of changes for properties."""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import strategies as st

from tests.routing.builders import OTHER_URL, URL, a_change, a_key
from traffic_manager.routing.model import Change

KEYS = tuple(a_key(service) for service in "abc")
# Which key is changed, and the URL after it; None for no active route.
Step: TypeAlias = tuple[int, str | None]


def steps(max_size: int = 40) -> st.SearchStrategy[list[Step]]:
    """Draw what a log does, step by step."""
    urls = st.sampled_from([URL, OTHER_URL, None])
    return st.lists(st.tuples(st.integers(0, len(KEYS) - 1), urls), max_size=max_size)


def log_of(history: list[Step]) -> list[Change]:
    """Return the changes from revision 1 on."""
    return [a_change(revision, KEYS[key], url) for revision, (key, url) in enumerate(history, 1)]
