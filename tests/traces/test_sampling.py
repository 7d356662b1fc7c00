"""Which requests are traced is as OpenTelemetry's own samplers have it."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from traffic_manager.monitoring.spans import parent_in
from traffic_manager.monitoring.tracing import Ids, Sampling, pairs

HIGH, LOW = "f" * 32, "0" * 31 + "1"


def a_parent(trace_id: str, flags: str) -> tuple[str, None]:
    """Return what a request says that it is a part of."""
    return f"00-{trace_id}-{'b' * 16}-{flags}", None


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_ids_that_are_made_are_those_that_the_librarys_sampler_takes(ratio: float) -> None:
    sampling, theirs = Sampling(ratio, heeds_parent=False), TraceIdRatioBased(ratio)
    assert sampling.bound == theirs.bound
    if ratio:
        made = [Ids(sampling.bound).generate_trace_id() for _ in range(100)]
        decisions = {theirs.should_sample(None, trace_id, "x").decision for trace_id in made}
        assert decisions == {Decision.RECORD_AND_SAMPLE}
        assert len(set(made)) == 100


@pytest.mark.parametrize("trace_id", [HIGH, LOW])
@pytest.mark.parametrize("flags", ["00", "01"])
def test_who_heeds_no_parent_decides_by_the_id_of_the_trace(trace_id: str, flags: str) -> None:
    theirs = TraceIdRatioBased(0.5).should_sample(None, int(trace_id, 16), "x").decision
    is_taken = Sampling(0.5, heeds_parent=False).takes(a_parent(trace_id, flags))
    assert is_taken is (theirs is Decision.RECORD_AND_SAMPLE)


@pytest.mark.parametrize(("flags", "is_taken"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_who_heeds_parents_does_as_they_say(flags: str, is_taken: bool) -> None:
    for ratio in (0.0, 1.0):
        assert Sampling(ratio, heeds_parent=True).takes(a_parent(HIGH, flags)) is is_taken


@pytest.mark.parametrize(("ratio", "taken"), [(0.0, 0), (1.0, 1000)])
def test_all_or_none_of_those_that_begin_a_trace(ratio: float, taken: int) -> None:
    sampling = Sampling(ratio, heeds_parent=True)
    assert sum(sampling.takes(None) for _ in range(1000)) == taken


GOOD = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [
        (GOOD, True),
        (GOOD + "-more", False),
        ("01" + GOOD[2:] + "-more", True),
        ("01" + GOOD[2:] + "more", False),
        ("ff" + GOOD[2:], False),
        (GOOD.upper(), False),
        (GOOD[:-1], False),
        (GOOD.replace("a" * 32, "0" * 32), False),
        (GOOD.replace("b" * 16, "0" * 16), False),
        (" " + GOOD, False),
        ("", False),
    ],
)
def test_a_parent_is_taken_in_the_form_of_the_standard_alone(given: str, is_taken: bool) -> None:
    assert (parent_in([(b"traceparent", given.encode())]) is not None) is is_taken


def test_two_parents_are_none() -> None:
    assert parent_in([(b"traceparent", GOOD.encode())] * 2) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [([], None), ([b"a=1"], "a=1"), ([b"a=1", b"b=2"], "a=1,b=2"), ([b"a" * 513], None), ([b"\xe9=1"], None)],
)
def test_states_go_on_together_unless_they_are_too_long_or_strange(
    states: list[bytes], kept: str | None
) -> None:
    headers = [(b"traceparent", GOOD.encode()), *((b"tracestate", state) for state in states)]
    assert parent_in(headers) == (GOOD, kept)


def test_pairs_are_decoded() -> None:
    assert pairs(" a=1 ,b=x%20y,,c,d=e=f") == {"a": "1", "b": "x y", "d": "e=f"}
