"""A small synchronous client of the HTTP API. It stands alone: it imports nothing else of the project.

    with Client("http://127.0.0.1:8000") as client:
        url = client.resolve(("team-a", "payments", "prod", "v2")).value.url
        for event in follow(client, Filter(tenant="team-a"), with_snapshot=True):
            ...  # the routes of a tenant, and then every change of them, over as many connections as it takes

Every call answers with a `Reply` or raises a `ClientError`; `errors.py` draws the tree.
"""

from traffic_manager.client.backoff import full_jitter_s
from traffic_manager.client.errors import (
    ClientError,
    Conflict,
    FieldError,
    HistoryGone,
    NotFound,
    Problem,
    Refused,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from traffic_manager.client.http import Client
from traffic_manager.client.model import (
    ApiKey,
    BatchResult,
    Change,
    ChangePage,
    Filter,
    GivenGrant,
    Grant,
    HistoryPage,
    Identity,
    Key,
    KeyPage,
    Limit,
    LimitPage,
    MirrorState,
    Operation,
    OperationResult,
    Position,
    Readiness,
    Reply,
    Resolved,
    ResolveResult,
    Route,
    RoutePage,
    StreamEvent,
)
from traffic_manager.client.retries import new_idempotency_key
from traffic_manager.client.stream import Outages, follow
from traffic_manager.client.table import Table, TableMoved, read_table

__all__ = [
    "ApiKey",
    "BatchResult",
    "Change",
    "ChangePage",
    "Client",
    "ClientError",
    "Conflict",
    "FieldError",
    "Filter",
    "GivenGrant",
    "Grant",
    "HistoryGone",
    "HistoryPage",
    "Identity",
    "Key",
    "KeyPage",
    "Limit",
    "LimitPage",
    "MirrorState",
    "NotFound",
    "Operation",
    "OperationResult",
    "Outages",
    "Position",
    "Problem",
    "Readiness",
    "Refused",
    "Reply",
    "ResolveResult",
    "Resolved",
    "Route",
    "RoutePage",
    "StreamEvent",
    "Table",
    "TableMoved",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "follow",
    "full_jitter_s",
    "new_idempotency_key",
    "read_table",
]
