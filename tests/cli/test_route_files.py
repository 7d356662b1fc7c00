"""Files of routes: every bad line is found, by its number, before anything is sent."""

from __future__ import annotations

import pytest

from traffic_manager.cli.route_files import FileFormat, Row, parse
from traffic_manager.routing.model import RouteKey

HEADER = "tenant,service,env,version,url\n"
KEY = RouteKey.of("team-a", "payments", "prod", "v2")


def rows_of(text: str, form: FileFormat = FileFormat.CSV) -> tuple[Row, ...]:
    found = parse(text.encode(), form)
    assert found.problems == ()
    return found.rows


def problems_of(content: str | bytes, form: FileFormat = FileFormat.CSV) -> list[str]:
    raw = content if isinstance(content, bytes) else content.encode()
    return [str(problem) for problem in parse(raw, form).problems]


class TestCsv:
    def test_a_line_is_a_route_with_the_number_of_its_line(self) -> None:
        expected = (Row(2, KEY, "https://pay.example", None),)
        assert expected == rows_of(HEADER + "team-a,payments,prod,v2,https://pay.example\n")

    def test_columns_may_stand_in_any_order_and_hold_the_state(self) -> None:
        text = "url,is_active,version,env,service,tenant\nhttps://pay.example,False,v2,prod,payments,team-a\n"
        assert (Row(2, KEY, "https://pay.example", False),) == rows_of(text)

    def test_an_empty_state_says_nothing(self) -> None:
        text = "tenant,service,env,version,url,is_active\nteam-a,payments,prod,v2,https://pay.example,\n"
        assert (Row(2, KEY, "https://pay.example", None),) == rows_of(text)

    def test_byte_order_mark_windows_line_ends_blank_lines_and_quotes_are_read(self) -> None:
        text = (
            "\ufeff"
            + HEADER.replace("\n", "\r\n")
            + '\r\n"team-a",payments,prod,v2,"https://pay.example/?a=1,2"\r\n'
        )
        assert (Row(3, KEY, "https://pay.example/?a=1,2", None),) == rows_of(text)

    def test_columns_that_export_adds_are_passed_over(self) -> None:
        text = (
            HEADER.strip()
            + ",revision,tm_revision\nteam-a,payments,prod,v2,https://pay.example,7,00000000.9\n"
        )
        assert (Row(2, KEY, "https://pay.example", None),) == rows_of(text)

    @pytest.mark.parametrize(
        "header",
        ["", "a,b,c\n", "tenant;service;env;version;url\n", "tenant,service,env,version,url,colour\n"],
    )
    def test_another_header_is_told_once(self, header: str) -> None:
        problems = problems_of(header + "team-a,payments,prod,v2,https://pay.example\n")
        assert [problem.partition(" (for")[0] for problem in problems] == [
            "line 1: the header must be tenant,service,env,version,url[,is_active]"
        ]

    def test_every_bad_line_is_told_in_the_order_of_the_lines(self) -> None:
        text = (
            HEADER
            + "team-a,payments,prod,v2,https://pay.example\n"
            + "team a,payments,prod,-,https://pay.example\n"
            + "team-a,payments,prod,v3\n"
            + "team-a,payments,prod,v4,\n"
            + "team-a,payments,prod,v2,https://other.example\n"
        )
        starts = ["line 3: tenant: must be", "line 3: version: must be", "line 4: has 4 columns"]
        starts += ["line 5: url: is missing", "line 6: team-a/payments/prod/v2 stands in line 2 already"]
        problems = problems_of(text)
        assert [p.startswith(s) for p, s in zip(problems, starts, strict=True)] == [True] * 5

    def test_a_state_that_is_no_boolean_is_refused(self) -> None:
        text = "tenant,service,env,version,url,is_active\nteam-a,payments,prod,v2,https://pay.example,yes\n"
        assert problems_of(text) == ["line 2: is_active: must be true or false"]

    def test_a_quote_that_never_ends_is_told_with_the_line_where_it_began(self) -> None:
        text = (
            HEADER
            + 'team-a,payments,prod,v2,"https://pay.example\nteam-a,payments,prod,v3,https://x.example\n'
        )
        assert problems_of(text) == ["line 2: is not CSV: unexpected end of data"]

    def test_bytes_that_are_not_utf_8_are_told_with_their_line(self) -> None:
        content = HEADER.encode() + b"team-a,payments,prod,v2,https://pay.example/\xff\n"
        assert problems_of(content) == ["line 2: is not UTF-8 text"]

    def test_a_url_beyond_any_limit_is_refused_here_because_it_could_not_be_sent(self) -> None:
        text = HEADER + f"team-a,payments,prod,v2,https://pay.example/{'a' * 3000}\n"
        assert problems_of(text) == ["line 2: url: must be at most 2048 characters long"]


class TestJsonLines:
    LINE = '{"tenant":"team-a","service":"payments","env":"prod","version":"v2","url":"https://pay.example"'

    def test_a_line_is_a_route(self) -> None:
        text = f'\n{self.LINE},"is_active":false}}\n'
        assert (Row(2, KEY, "https://pay.example", False),) == rows_of(text, FileFormat.JSONL)

    def test_fields_that_export_adds_are_passed_over(self) -> None:
        text = f'{self.LINE},"revision":7,"created_at":"x","updated_at":"y","tm_revision":"00000000.9"}}'
        assert (Row(1, KEY, "https://pay.example", None),) == rows_of(text, FileFormat.JSONL)

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("[1]", "line 1: must be one JSON object on each line"),
            ("{", "line 1: must be one JSON object on each line: Expecting property name"),
            (LINE + ',"colour":1}', "line 1: unknown field 'colour'"),
            (LINE + ',"url":"https://b.example"}', "line 1: a field stands twice"),
            (LINE + ',"is_active":"true"}', "line 1: is_active: must be true or false"),
            (LINE + ',"is_active":null}', "line 1: is_active: must be true or false"),
            ('{"tenant":1}', "line 1: tenant: is missing or is no text"),
            ("[" * 100_000, "line 1: "),
        ],
    )
    def test_another_line_is_told(self, line: str, problem: str) -> None:
        assert problems_of(line, FileFormat.JSONL)[0].startswith(problem)
