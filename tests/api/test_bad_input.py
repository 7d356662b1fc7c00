"""Bodies and fields that break a rule: a problem that names the field, and nothing written. Ids such as A02 are
the rows of the table of bad input."""

from __future__ import annotations

import gzip
import json
import time

import httpx2
import pytest

from tests.api.calls import BATCH, ROUTES, URL, a_fresh_key, code_of, created, fields_of, head_of
from tests.node import Json, Node, path_of, resolve

JSON_TYPE = {"Content-Type": "application/json"}
FINE = json.dumps({**a_fresh_key(), "url": URL})
MAX_ANSWER_BYTES = 8 * 1024


def _refused(answer: httpx2.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, answer.text[:500]
    assert len(answer.content) < MAX_ANSWER_BYTES
    for leak in ("Traceback", "site-packages", "sqlite", "psycopg", "SELECT", "INSERT"):
        assert leak not in answer.text


def _post(api: httpx2.Client, body: bytes | str, **headers: str) -> httpx2.Response:
    """Send *body* as it is; the head must not move."""
    head = head_of(api)
    content = body if isinstance(body, bytes) else body.encode()
    answer = api.post(ROUTES, content=content, headers={**JSON_TYPE, **headers})
    assert head_of(api) == head
    return answer


MALFORMED = {
    "empty": b"",
    "blank": b" \n",
    "words": b"tenant=a&service=b",
    "half": b'{"tenant": "a"',
    "trailing-bytes": FINE.encode() + b"x",
    "two-documents": FINE.encode() * 2,
    "byte-order-mark": b"\xef\xbb\xbf" + FINE.encode(),
    "utf-16": FINE.encode("utf-16"),
    "invalid-utf-8": b'{"tenant": "\xff\xfe"}',
    "overlong-utf-8": b'{"tenant": "\xc0\xaf"}',
    "surrogate-in-utf-8": b'{"tenant": "\xed\xa0\x80"}',
    "lone-surrogate": rb'{"tenant": "\ud800"}',
    "lone-low-surrogate": rb'{"tenant": "x\udc00"}',
    "surrogate-as-name": rb'{"\ud800": 1}',
    "surrogate-deeper": rb'{"tenant": {"a": ["\ud800"]}}',
    "nul": rb'{"tenant": "a\u0000"}',
    "raw-nul": b'{"tenant": "a\x00"}',
    "raw-newline": b'{"tenant": "a\nb"}',
    "single-quotes": b"{'tenant': 'a'}",
    "comment": b'{"tenant": "a" /* b */}',
    "trailing-comma": b'{"tenant": "a",}',
    "array": b"[]",
    "string": b'"tenant"',
    "number": b"1",
    "null": b"null",
    "open-string": b'{"tenant": "a',
    "open-escape": b'{"tenant": "a\\',
    "quotes": b'"' * 15000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=[f"A01-{name}" for name in MALFORMED])
def test_body_that_is_not_json_is_refused(sqlite_api: httpx2.Client, body: bytes) -> None:
    answer = _post(sqlite_api, body)
    _refused(answer, 400)
    assert (code_of(answer), fields_of(answer)) == ("malformed-json", ["body"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (FINE[:-1] + ', "url": "https://b.example.com"}', "url"),
        ('{"tenant": "a", "tenant": "a"}', "tenant"),
        ('{"x": {"deep": 1, "deep": 2}}', "deep"),
        ('{"x": [{"deep": 1, "deep": 2}]}', "deep"),
        (r'{"url": 1, "\u0075rl": 2}', "url"),
        ('{"é": 1, "é": 2}', "body"),
        (f'{{"{"k" * 500}": 1, "{"k" * 500}": 2}}', "k" * 64),
    ],
    ids=lambda value: f"A02-{str(value)[:12]}",
)
def test_doubled_name_is_refused_and_named(sqlite_api: httpx2.Client, body: str, field: str) -> None:
    answer = _post(sqlite_api, body)
    _refused(answer, 400)
    assert (code_of(answer), fields_of(answer)) == ("duplicate-key", [field])


@pytest.mark.parametrize(
    "number",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "9007199254740992",
        "18446744073709551616",
        "9" * 5000,
    ],
    ids=lambda number: f"A03-{number[:20]}",
)
def test_number_that_readers_understand_differently_is_refused(
    sqlite_api: httpx2.Client, number: str
) -> None:
    answer = _post(sqlite_api, f'{{"tenant": {number}}}')
    _refused(answer, 400)
    assert code_of(answer) == "number-out-of-range"


@pytest.mark.parametrize(
    "body",
    ["[" * 9, "[" * 16000, '{"a":' * 3000, '{"a": ' + "[" * 8 + "]" * 8 + "}", '{"a": "]]", "b": ' + "[" * 9],
    ids=lambda body: f"A04-{body[:10]}-{len(body)}",
)
def test_deep_nesting_is_refused_before_it_is_parsed(sqlite_api: httpx2.Client, body: str) -> None:
    answer = _post(sqlite_api, body)
    _refused(answer, 400)
    assert code_of(answer) == "nested-too-deep"


def test_brackets_in_strings_do_not_nest_a04(sqlite_api: httpx2.Client) -> None:
    answer = _post(sqlite_api, json.dumps({"tenant": "[" * 500 + '"' + "{" * 500}))
    assert code_of(answer) != "nested-too-deep"


@pytest.mark.parametrize(
    "body",
    [b'"' + b'\\"' * (2 << 20), b'"' + b"a" * (4 << 20 - 2), b"\\" * (4 << 20)],
    ids=["A04-escapes", "A04-long", "A04-slashes"],
)
def test_no_body_keeps_the_others_waiting(sqlite_api: httpx2.Client, body: bytes) -> None:
    """The depth is found in one pass: quadratic, these bodies took minutes."""
    began = time.monotonic()
    answer = sqlite_api.post(BATCH, content=body[: 4 << 20], headers=JSON_TYPE)
    _refused(answer, 400)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("path", "limit"), [(ROUTES, 16 * 1024), (BATCH, 4 * 1024 * 1024)])
def test_body_over_the_limit_is_413_and_ends_the_connection_a05(
    sqlite_api: httpx2.Client, path: str, limit: int
) -> None:
    at_limit = sqlite_api.post(path, content=b" " * limit, headers=JSON_TYPE)
    over = sqlite_api.post(path, content=b" " * (limit + 1), headers=JSON_TYPE)
    assert (at_limit.status_code, over.status_code, code_of(over)) == (400, 413, "body-too-large")
    assert over.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": ""}, "unsupported-media-type"),
        ({"Content-Type": "text/plain"}, "unsupported-media-type"),
        ({"Content-Type": "application/json5"}, "unsupported-media-type"),
        ({"Content-Type": "application/merge-patch+json"}, "unsupported-media-type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "unsupported-media-type"),
        ({"Content-Type": "application/json; charset=utf-16"}, "unsupported-media-type"),
        ({"Content-Type": "application/json, text/plain"}, "unsupported-media-type"),
        ({"Content-Encoding": "gzip"}, "unsupported-encoding"),
        ({"Content-Encoding": "br"}, "unsupported-encoding"),
        ({"Content-Encoding": "identity, gzip"}, "unsupported-encoding"),
    ],
    ids=lambda value: f"A06-{value}",
)
def test_other_media_types_and_compressed_bodies_are_415(
    sqlite_api: httpx2.Client, headers: dict[str, str], code: str
) -> None:
    body = gzip.compress(b" " * (8 << 20)) if "Content-Encoding" in headers else FINE.encode()
    answer = _post(sqlite_api, body, **headers)
    _refused(answer, 415)
    assert code_of(answer) == code


@pytest.mark.parametrize(
    "given", ["application/json", "Application/JSON; charset=UTF-8", "application/json;"]
)
def test_json_may_be_spelled_as_http_allows_a06(sqlite_api: httpx2.Client, given: str) -> None:
    body = json.dumps({**a_fresh_key(), "url": URL})
    answer = sqlite_api.post(ROUTES, content=body.encode(), headers={"Content-Type": given})
    assert answer.status_code == 201


WRITES = {
    "create": ("POST", ROUTES, {"url": URL}),
    "activate": ("POST", f"{ROUTES}/activate", {}),
    "deactivate": ("POST", f"{ROUTES}/deactivate", {}),
    "put": ("PUT", None, {"url": URL}),
}


def _write(api: httpx2.Client, call: str, **fields: object) -> httpx2.Response:
    method, path, body = WRITES[call]
    key = created(api)
    head = head_of(api)
    whole: Json = {**({} if path is None else key), **body, **fields}
    answer = api.request(method, path or path_of(key), json=whole)
    assert head_of(api) == head
    return answer


@pytest.mark.parametrize("call", WRITES)
@pytest.mark.parametrize(
    "field", ["revision", "active", "role", "created_at", "actor", "", "x" * 3000, "a/b~c", "é"]
)
def test_unknown_field_is_422_and_named_a07(sqlite_api: httpx2.Client, call: str, field: str) -> None:
    answer = _write(sqlite_api, call, **{field: "x"})
    _refused(answer, 422)
    shown = field[:64] if field.isascii() else "body"
    assert (code_of(answer), fields_of(answer)) == ("unknown-field", [shown])


def test_pointer_of_a_strange_field_is_escaped_a07(sqlite_api: httpx2.Client) -> None:
    answer = _write(sqlite_api, "put", **{"a/b~c": 1})
    assert answer.json()["errors"][0]["pointer"] == "/a~1b~0c"


def test_names_are_not_taken_from_the_body_of_put_a07(sqlite_api: httpx2.Client) -> None:
    _refused(_write(sqlite_api, "put", tenant="other"), 422)


def test_thousand_wrong_fields_are_answered_with_the_first_few_a07(sqlite_api: httpx2.Client) -> None:
    body = {f"field-{number}": 1 for number in range(800)}
    answer = _post(sqlite_api, json.dumps(body))
    _refused(answer, 422)
    assert len(answer.json()["errors"]) == 32


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, True, [], ["a"], {}, {"a": "b"}], ids=lambda value: f"A08-{json.dumps(value)}"
)
@pytest.mark.parametrize("field", ["tenant", "service", "env", "version", "url"])
def test_wrong_type_is_422_and_pointed_at(sqlite_api: httpx2.Client, field: str, value: object) -> None:
    answer = _write(sqlite_api, "create", **{field: value})
    _refused(answer, 422)
    error = answer.json()["errors"][0]
    assert (error["field"], error["code"], error["pointer"]) == (field, "wrong-type", f"/{field}")


@pytest.mark.parametrize(
    "value", [0, 1, "true", "on", [], {}, 1.0], ids=lambda value: f"A08-{json.dumps(value)}"
)
def test_wrong_type_for_a_boolean_is_422(sqlite_api: httpx2.Client, value: object) -> None:
    answer = _write(sqlite_api, "put", is_active=value)
    _refused(answer, 422)
    assert (fields_of(answer), code_of(answer)) == (["is_active"], "wrong-type")


@pytest.mark.parametrize("field", ["tenant", "service", "env", "version", "url"])
def test_missing_field_is_422_and_named(sqlite_api: httpx2.Client, field: str) -> None:
    body = {name: value for name, value in {**a_fresh_key(), "url": URL}.items() if name != field}
    answer = _post(sqlite_api, json.dumps(body))
    _refused(answer, 422)
    assert (code_of(answer), fields_of(answer)) == ("missing", [field])


NAMES = {
    "empty": "",
    "129": "a" * 129,
    "long": "a" * 8000,
    "two-dots": "a..b",
    "dots": "..",
    "dot": ".",
    "begins-with-hyphen": "-a",
    "ends-with-hyphen": "a-",
    "ends-with-dot": "a.",
    "newline": "a\n",
    "carriage-return": "a\rb",
    "tab": "a\tb",
    "space": " a",
    "unit-separator": "a\x1fb",
    "delete": "a\x7f",
    "colon": "a:b",
    "slash": "a/b",
    "backslash": "a\\b",
    "percent": "a%2eb",
    "escaped-nul": "a%00",
    "full-width": "ｐｒｏｄ",
    "kelvin": "\u212a8s",
    "dotless": "prod\u0131",
    "cyrillic": "pr\u043ed",
    "arabic-digit": "v\u0661",
    "accent": "e\u0301nv",
    "right-to-left": "a\u202eb",
    "zero-width": "a\u200bb",
    "line-separator": "a\u2028b",
    "emoji": "a\U0001f600",
    "quote": "a'--",
    "sql": "a'; DROP TABLE routes; --",
    "sql-or": "a' OR '1'='1",
    "template": "{{7*7}}",
    "html": "<script>",
    "star": "*",
    "underscore-first": "_a",
}
NAME_IDS = [f"A10-{name}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES.values(), ids=NAME_IDS)
def test_illformed_name_in_a_body_is_400_and_named(sqlite_api: httpx2.Client, name: str) -> None:
    for field in ("tenant", "version"):
        answer = _write(sqlite_api, "create", **{field: name})
        _refused(answer, 400)
        assert (code_of(answer), fields_of(answer)) == ("invalid-name", [field])
        assert len(name) < 64 or name not in answer.text


@pytest.mark.parametrize("name", NAMES.values(), ids=NAME_IDS)
def test_illformed_name_in_a_query_is_400_and_named(sqlite_api: httpx2.Client, name: str) -> None:
    for path in (f"{ROUTES}/resolve", ROUTES, "/api/v1/changes"):
        answer = sqlite_api.get(path, params={**a_fresh_key(), "service": name})
        _refused(answer, 400, 414)
        # Past 4 KiB it is the query as a whole, past 8 KiB the request line.
        assert fields_of(answer) in ([], ["query"]) if len(name) > 1000 else fields_of(answer) == ["service"]


@pytest.mark.parametrize(
    "names", [("a:b", "c"), ("a", "b:c"), ("a/b", "c"), ("a", "b/c")], ids=lambda n: f"A11-{n}"
)
def test_no_delimiter_fits_into_a_name(sqlite_api: httpx2.Client, names: tuple[str, str]) -> None:
    key = {**a_fresh_key(), "tenant": names[0], "service": names[1]}
    _refused(_post(sqlite_api, json.dumps({**key, "url": URL})), 400)
    _refused(resolve(sqlite_api, key), 400)


def test_all_illformed_fields_are_named_at_once(sqlite_api: httpx2.Client) -> None:
    answer = _write(sqlite_api, "create", tenant="", env="a b", url="ftp://x")
    assert fields_of(answer) == ["tenant", "env", "url"]


def test_type_of_a_problem_belongs_to_its_status(sqlite_api: httpx2.Client) -> None:
    answer = _write(sqlite_api, "create", tenant="", url="ftp://x.example.com")
    assert (answer.status_code, code_of(answer)) == (422, "url-scheme")


def test_longest_name_is_taken_a10(sqlite_api: httpx2.Client) -> None:
    names = dict.fromkeys(("tenant", "service", "env"), "n" * 128)
    key = {**names, "version": a_fresh_key()["tenant"].ljust(128, "x")}
    assert sqlite_api.post(ROUTES, json={**key, "url": URL}).status_code == 201
    assert resolve(sqlite_api, key).status_code == 200
    assert sqlite_api.get(path_of(key)).status_code == 200


@pytest.mark.parametrize("name", ["select", "null", "None", "true", "0", "con", "constructor", "1e5", "a--b"])
def test_words_that_mean_something_elsewhere_are_names_like_others_a14(
    sqlite_api: httpx2.Client, name: str
) -> None:
    key = {**a_fresh_key(), "service": name, "version": name}
    assert sqlite_api.post(ROUTES, json={**key, "url": URL}).status_code == 201
    assert resolve(sqlite_api, key).json()["service"] == name


URLS = {
    "A20": [
        "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "gopher://a.example.com", "//a.example.com",
        "a.example.com", "HTTP://a.example.com", "Https://a.example.com", "ftp://a.example.com", "ws://a.example.com",
        "https:/a.example.com", "https:a.example.com", "http+unix://x", "", "://a.example.com", "https", "view-source:https://a",
    ],
    "A21": [
        "http://a@b.example.com", "http://a:b@b.example.com", "http://@b.example.com", "http://a\\@evil.example.com",
        "https://a.example.com/#x", "https://a.example.com#", "https://a.example.com\\x", "https://a .example.com",
        " https://a.example.com", "https://a.example.com ", "https://a\t.example.com", "https://a\r\n.example.com",
        "\x00https://a.example.com", "\x1fhttps://a.example.com", "https://a.example.com/\n", "https://a.example.com/é",
        "https://a.example.com/\u2028", "https://a.example.com/<x>", 'https://a.example.com/"', "https://a.example.com/^`{|}",
    ],
    "A22": [
        "https://127.1", "https://0x7f000001", "https://2130706433", "https://017700000001", "https://127.0.0.01",
        "https://[::ffff:127.0.0.1]", "https://[fe80::1%25eth0]", "https://[evil]", "https://[::1", "https://::1",
        "https://[0:0:0:0:0:0:0:1]", "https://[::1]x", "https://bücher.example.com", "https://xn--.example.com",
        "https://xn--a.example.com", f"https://{'a' * 64}.example.com", f"https://{'a.' * 127}example.com",
        "https://a.example.com.", "https://a.123", "https://a.0x1", "https://A.example.com", "https://a_b.example.com",
        "https://-a.example.com", "https://a-.example.com", "https://a..example.com", "https://", "https:///x", "https://.",
        "https://%61.example.com", "https://a,b.example.com",
    ],
    "A23": [
        "http://169.254.169.254/latest", "http://[fd00:ec2::254]/", "http://metadata.google.internal/", "http://0.0.0.0",
        "http://0.1.2.3", "http://224.0.0.1", "http://255.255.255.255", "http://[fe80::1]", "http://[ff02::1]", "http://[::]",
        "http://100.100.100.200", "http://[64:ff9b::a9fe:a9fe]", "http://[2002:a9fe:a9fe::]", "http://[::ffff:a9fe:a9fe]",
    ],
    "A24": [
        "https://a.example.com:0", "https://a.example.com:65536", "https://a.example.com:x", "https://a.example.com:",
        "https://a.example.com:-1", "https://a.example.com:080", "https://a.example.com:80:80", "https://a.example.com:99999999999",
    ],
    "A25": [
        "https://a.example.com/" + "x" * 2048, "https://a.example.com/%", "https://a.example.com/%2", "https://a.example.com/%zz",
        "https://a.example.com/%00", "https://a.example.com/%0d%0a", "https://a.example.com/../x", "https://a.example.com/./x",
        "https://a.example.com/%2e%2E/x", "https://a.example.com/x/..", "https://a.example.com/[x]", "https://a.example.com?x=%0A",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(url, id=f"{row}-{number}")
        for row, urls in URLS.items()
        for number, url in enumerate(urls)
    ],
)
def test_url_that_could_mean_two_things_is_refused(sqlite_api: httpx2.Client, url: str) -> None:
    answer = _post(sqlite_api, json.dumps({**a_fresh_key(), "url": url}))
    _refused(answer, 422, 400 if "\x00" in url else 422)
    assert fields_of(answer) == ["body" if "\x00" in url else "url"]
    assert len(url) < 64 or url not in answer.text


@pytest.mark.parametrize(
    "url",
    [
        "https://a.example.com",
        "http://localhost:8080/x",
        "http://127.0.0.1",
        "http://10.0.0.1:1",
        "http://[::1]:65535/",
        "http://[fd00::1]",
        "https://xn--bcher-kva.example.com",
        "https://a/b//c?d=e&f=%20'()*;:@!$,",
        "https://a.example.com/" + "x" * (2048 - 22),
    ],
    ids=lambda url: url[:40],
)
def test_wellformed_url_is_taken_a25(sqlite_api: httpx2.Client, url: str) -> None:
    assert sqlite_api.post(ROUTES, json={**a_fresh_key(), "url": url}).status_code == 201


PAGE_SIZES = ["0", "-1", "501", "1000000000", "9" * 30, "", "x", "1.5", "1e2", "1_0", " 1", "+1", "٣", "true"]


@pytest.mark.parametrize("given", PAGE_SIZES, ids=[f"A44-{size[:10]}" for size in PAGE_SIZES])
def test_page_size_and_limit_outside_their_range_are_400_and_named(
    sqlite_api: httpx2.Client, given: str
) -> None:
    limit = "1001" if given == "501" else given
    for path, name, value in (
        (ROUTES, "page_size", given),
        (f"{path_of(a_fresh_key())}/history", "page_size", given),
        ("/api/v1/changes", "limit", limit),
    ):
        answer = sqlite_api.get(path, params={name: value})
        _refused(answer, 400)
        assert (code_of(answer), fields_of(answer)) == ("invalid-parameter", [name])


@pytest.mark.parametrize(
    ("path", "name", "given"),
    [
        *(
            ("/api/v1/changes", "wait", value)
            for value in ("-1", "61", "nan", "inf", "", "x", "1_0", " 1", "0x1")
        ),
        *((ROUTES, "is_active", value) for value in ("", "1", "on", "TRUE", "yes", "null", "x", " true")),
    ],
)
def test_other_parameter_of_wrong_form_is_400_and_named(
    sqlite_api: httpx2.Client, path: str, name: str, given: str
) -> None:
    answer = sqlite_api.get(path, params={name: given})
    _refused(answer, 400)
    assert (code_of(answer), fields_of(answer)) == ("invalid-parameter", [name])


def test_nothing_that_was_sent_reached_the_log_as_a_bug(sqlite_stack: Node) -> None:
    assert "unhandled_error" not in sqlite_stack.log()
