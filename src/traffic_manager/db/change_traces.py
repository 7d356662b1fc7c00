"""To which traces the newest changes belong: written with a change that a traced request makes, read with the log.

A relay sends a change within moments, so only the newest are kept: of the trace of an older one nobody may have the
other spans any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from traffic_manager.db.pool import Write
from traffic_manager.db.session import Row
from traffic_manager.monitoring.spans import Parent, parent_in
from traffic_manager.routing.model import Trace

KEPT_CHANGES = 10_000

# Nothing may keep a change from being made, not even what somebody else has put there.
_KEEP = """insert into change_traces (revision, traceparent, tracestate) {rows}
    on conflict (revision) do nothing"""
_TYPES = ("bigint", "text", "text")
# Served by the primary key of change_traces: few rows, for each traced change drops those that left since the last.
_DROP = "delete from change_traces where revision <= ({rows})"


def writes(traces: Mapping[int, Trace], upto: int) -> list[Write]:
    """Return what keeps *traces*, by revision, of changes up to revision *upto*."""
    kept = [(revision, *trace) for revision, trace in traces.items()]
    return [Write(_KEEP, _TYPES, kept), Write(_DROP, ("bigint",), [(upto - KEPT_CHANGES,)])]


def traces_of(rows: Iterable[Row]) -> Mapping[int, Trace]:
    """Return the traces in *rows* of revision, traceparent and tracestate, which may hold none, or what somebody else
    has put there."""
    found = ((revision, _parent_of(parent, state)) for revision, parent, state in rows if parent is not None)
    return {revision: Trace(*parent) for revision, parent in found if parent is not None}


def _parent_of(traceparent: object, tracestate: object) -> Parent | None:
    given = ((b"traceparent", traceparent), (b"tracestate", tracestate or ""))
    return parent_in([(name, str(value).encode("utf-8", "replace")) for name, value in given])
