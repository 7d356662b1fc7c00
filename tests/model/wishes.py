"""What the machine draws from: which worker, which key, which wishes, and which of them come in a crowd."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.routing.builders import a_key, activate, deactivate, delete
from traffic_manager.routing.model import RouteKey
from traffic_manager.routing.operations import Operation, Verb

# Two tenants have a service of the same name: neither may be given what is the other's.
KEYS = [a_key("a"), a_key("a", tenant="team-b"), a_key("b"), a_key("c", tenant="team-b")]
TWINS = {KEYS[0]: KEYS[1], KEYS[1]: KEYS[0]}
WORKERS = 3
# A batch has to fit in a slice of the log.
MOST_OPERATIONS = 3


def url_of(key: RouteKey, number: int) -> str:
    """Return one of the URLs that only *key* ever has."""
    return f"https://{key.service}.{key.tenant}.example/{number}"


def put(key: RouteKey, number: int, is_active: bool | None = None) -> Operation:
    """Wish for a route with that URL."""
    return Operation(Verb.PUT, key, url_of(key, number), is_active)


workers = st.integers(0, WORKERS - 1)
some_workers = st.sets(workers)
keys = st.sampled_from(KEYS)
slow = st.booleans()
modes = st.sampled_from(["plain", "plain", "strong", "token", "old token"])
operations = st.one_of(
    st.builds(put, keys, st.integers(0, 2), st.sampled_from([None, None, True, False])),
    st.builds(lambda key, number: Operation(Verb.CREATE, key, url_of(key, number)), keys, st.integers(0, 1)),
    st.builds(lambda wish, key: wish(key), st.sampled_from([activate, deactivate, delete]), keys),
)
batches = st.lists(operations, min_size=1, max_size=MOST_OPERATIONS)
sizes = st.permutations([100, 2, 0])
# Much happens to one key while a read of it is on its way.
STEPS = [
    *("put", "put", "deactivate", "follow", "deliver", "look", "elsewhere", "plain", "strong", "slow strong"),
    *("slow plain", "slow twin", "cut", "heal"),
]
steps = st.lists(st.sampled_from(STEPS), min_size=2, max_size=7)
BEGINNINGS = [
    [],
    ["slow plain"],
    ["elsewhere", "slow plain"],
    ["look", "put"],
    ["slow strong", "put", "follow"],
    ["back up", "put", "follow", "slow strong", "restore", "put", "follow"],
    ["back up", "put", "elsewhere", "restore", "put", "put", "follow"],
]
