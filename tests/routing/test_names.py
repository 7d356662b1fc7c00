"""Which names make a key, and that no two keys are the same text."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic_manager.errors import InvalidInput
from traffic_manager.routing.model import NAME_FIELDS, Position, RouteKey, name_problem, rfc3339

GOOD = ["a", "0", "Payments", "team-a", "v1.2.3", "a~b", "a+b", "a_b", "a--b", "a-._~+b", "x" * 128, "prod"]
BAD = [
    "",
    "x" * 129,
    ".",
    "..",
    "a..b",
    "-a",
    "a-",
    ".a",
    "a.",
    "_a",
    "a_",
    "+a",
    "a~",
    "a b",
    " a",
    "a ",
    "a\n",
    "a\r\n",
    "\na",
    "a\tb",
    "a\x00",
    "a\x1fb",
    "a\x7f",
    "a/b",
    "a\\b",
    "a:b",
    "a%2e",
    "%00",
    "a?b",
    "a#b",
    "a;b",
    "a,b",
    "a*b",
    "a'b",
    'a"b',
    "a<b",
    "a@b",
    "a$b",
    "ü",
    "aéb",
    "ｐｒｏｄ",
    "\u212a",  # the Kelvin sign, which lower() makes a k
    "а",  # a Cyrillic letter
    "١",  # a digit elsewhere
    "a\u200bb",
    "\u202eabc",
    "a\u2028b",
    "\ufeffa",
    "\ud800",
]


@pytest.mark.parametrize("name", GOOD)
def test_name_of_the_grammar_is_taken_as_it_is(name: str) -> None:
    assert RouteKey.of(name, name, name, name).tenant == name


@pytest.mark.parametrize("name", BAD)
def test_any_other_name_is_refused_and_not_echoed(name: str) -> None:
    problem = name_problem("env", name)
    assert problem is not None
    assert (problem.field, problem.code) == ("env", "invalid-name")
    assert len(name) < 3 or name not in problem.detail


def test_every_ill_formed_name_is_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as refusal:
        RouteKey.of("-", "payments", "", "v1\n")
    assert [p.field for p in refusal.value.problems] == ["tenant", "env", "version"]


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._~+-]{0,126}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda name: ".." not in name
)


@given(names)
def test_every_name_of_the_grammar_is_taken(name: str) -> None:
    assert name_problem("tenant", name) is None


@given(st.text(max_size=10))
def test_accepted_text_is_printable_ascii_without_a_delimiter(text: str) -> None:
    if name_problem("tenant", text) is None:
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set("/:?#%\\ ")


@given(st.tuples(names, names, names, names), st.tuples(names, names, names, names))
def test_different_keys_are_different_texts(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (str(RouteKey.of(*one)) == str(RouteKey.of(*other))) == (one == other)


def test_names_cannot_be_moved_over_a_delimiter() -> None:
    parts = ["a", "b", "a.b", "a-b", "a~b", "a+b", "ab"]
    keys = [RouteKey.of(*four) for four in product(parts, repeat=len(NAME_FIELDS))]
    assert len({str(key) for key in keys}) == len(keys)


@given(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), st.integers(0, 10**18 - 1))
def test_position_is_read_back_from_its_text(epoch8: str, revision: int) -> None:
    position = Position(epoch8, revision)
    assert Position.parse(str(position), "after") == position


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "7",
            "0f8e5b1c",
            "0f8e5b1c.",
            ".7",
            "0f8e5b1c.07",
            "0f8e5b1c.-1",
            "0f8e5b1c.7\n",
            " 0f8e5b1c.7",
        ),
        *("0F8E5B1C.7", "0f8e5b1.7", "0f8e5b1cc.7", "0f8e5b1c.1e3", "0f8e5b1c.٧", "0f8e5b1c." + "9" * 19),
    ],
)
def test_any_other_text_is_no_position_and_names_the_field(text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Position.parse(text, "after")
    assert [(p.field, p.code) for p in refusal.value.problems] == [("after", "invalid-revision")]


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_have_six_decimals_and_end_in_z(microseconds: int) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", rfc3339(microseconds))


def test_time_is_exact_to_the_microsecond() -> None:
    assert rfc3339(1_767_225_600_000_001) == "2026-01-01T00:00:00.000001Z"
