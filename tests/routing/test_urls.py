"""Which URLs may be stored, rule by rule, and that libraries understand the accepted ones as we do."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from traffic_manager.routing.urls import URL_MAX_CHARACTERS, UrlPolicy

POLICY = UrlPolicy()

GOOD = [
    "https://payments.example.com",
    "https://payments.example.com/",
    "http://payments.example.com/v2",
    "https://payments.example.com:8443/v2/x?y=1&z=%20",
    "https://a",
    "https://a-b.c-d.example",
    "https://xn--bcher-kva.example/",
    "https://10.0.0.1:80/",
    "https://192.168.1.1",
    "https://127.0.0.1:8080/",
    "http://localhost:8000",
    "https://[2001:db8::1]/",
    "https://[::1]:8080/x",
    "https://[fd00::1]",
    "https://a.example?x=1",
    "https://a.example/?",
    "https://a.example/a//b",
    "https://a.example/...",
    "https://a.example/.well-known/x",
    "https://a.example/%7Ex%2F%25",
    "https://a.example/x;y=1,2@z:!$&'()*+=",
    "https://a.example:1",
    "https://a.example:65535",
    "https://3com.example",
    "https://1.2.3.4.example",
    "https://" + "a" * 63 + ".example",
]

BAD = {
    "url-scheme": [  # A20
        *("javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "gopher://h/", "ftp://h/"),
        *("//h/x", "h/x", "h", "", "/x", ":", "://h", "https:", "https:/h", "https:h", "http//h"),
        *("HTTP://h/", "Https://h/", "httpS://h", "hhttps://h", "https+x://h", "1http://h", "ws://h"),
    ],
    "url-userinfo": ["http://a@b/", "http://a:b@c/", "http://@h/", "https://h@", "https://a%40b@h"],  # A21
    "url-fragment": ["https://h/#", "https://h/#x", "https://h#x", "https://h?x#y"],
    "url-characters": [
        *("https://a\\@evil/", "https://h\\x", "https://h/a b", "https://h /", " https://h", "https://h "),
        *(
            "https://h\t/x",
            "https://h/\r\nx",
            "https://h/x\n",
            "\x00https://h",
            "https://h/\x00",
            "ht\ntps://h",
        ),
        *("https://bücher.example/", "https://h/ü", "https://ｈ/", "https://h/\u2028", "https://h。example"),
        *("https://h/<x>", 'https://h/"', "https://h/`", "https://h/{x}", "https://h/|", "https://h/^"),
        "https://h/\ud800",
    ],
    "url-host": [  # A22
        *("https://", "https:///x", "https://?x", "https://:80", "https://:80/x"),
        *("https://127.1", "https://127.0.1", "https://0x7f000001", "https://2130706433", "https://0x7f.1"),
        *(
            "https://0177.0.0.1",
            "https://127.0.0.01",
            "https://1.2.3.4.",
            "https://1.2.3.4.5",
            "https://256.1.1.1",
        ),
        *(
            "https://[::ffff:127.0.0.1]",
            "https://[::FFFF:7f00:1]",
            "https://[fe80::1%25eth0]",
            "https://[evil]",
        ),
        *("https://[", "https://]", "https://[]", "https://[::1", "https://::1", "https://2001:db8::1/x"),
        *("https://[::1]x", "https://[::1]x:80", "https://x[::1]", "https://[127.0.0.1]", "https://[v1.x]"),
        *("https://[2001:DB8::1]", "https://[2001:db8:0::1]", "https://[02001:db8::1]", "https://[::1]]"),
        *(
            "https://H",
            "https://Example.com",
            "https://a.example.",
            "https://.a",
            "https://a..b",
            "https://-a",
        ),
        *("https://a-", "https://a.-b", "https://a_b", "https://" + "a" * 64, "https://" + "a." * 127 + "aa"),
        *(
            "https://a.1",
            "https://a.0x1",
            "https://a%2eb",
            "https://a,b",
            "https://a*",
            "https://a!b",
            "https://%61",
        ),
        *("https://xn--", "https://xn--a", "https://xn--zzzzzzzzzzzz99999", "https://ab--cd.example"),
    ],
    "url-address": [  # A23
        *(
            "http://169.254.169.254/latest",
            "http://169.254.0.1",
            "https://[fd00:ec2::254]",
            "http://100.100.100.200",
        ),
        *("https://metadata.google.internal/", "http://metadata/", "https://0.0.0.0", "https://0.1.2.3"),
        *("https://224.0.0.1", "https://239.255.255.255", "https://255.255.255.255", "https://240.0.0.1"),
        *("https://[::]", "https://[fe80::1]", "https://[ff02::1]", "https://[64:ff9b::a9fe:a9fe]"),
        *("https://[2002:a9fe:a9fe::1]", "https://[64:ff9b::1]"),
    ],
    "url-port": [  # A24
        *("https://h:0", "https://h:65536", "https://h:", "https://h:/", "https://h:x", "https://h:080"),
        *("https://h:+80", "https://h:-1", "https://h:8%30", "https://h:99999", "https://h:100000"),
    ],
    "url-escape": [  # A25
        *(
            "https://h/%",
            "https://h/%2",
            "https://h/%zz",
            "https://h/%%41",
            "https://h/%00",
            "https://h/%0d%0a",
        ),
        *(
            "https://h/%1f",
            "https://h/%7F",
            "https://h?x=%0A",
            "https://h?%",
            "https://h/[x]",
            "https://h?x[]=1",
        ),
    ],
    "url-path": [
        *(
            "https://h/.",
            "https://h/..",
            "https://h/../x",
            "https://h/x/..",
            "https://h/./x",
            "https://h/x/./y",
        ),
        *("https://h/%2e", "https://h/%2E%2e/x", "https://h/.%2e/", "https://h/x/%2e./y"),
    ],
    "url-length": ["https://h/" + "x" * 2039],
}


@pytest.mark.parametrize("url", GOOD)
def test_url_of_the_grammar_is_taken(url: str) -> None:
    assert POLICY.problem(url) is None


@pytest.mark.parametrize(("code", "url"), [(code, url) for code, urls in BAD.items() for url in urls])
def test_any_other_url_is_refused_with_the_rule_it_breaks(code: str, url: str) -> None:
    problem = POLICY.problem(url)
    assert problem is not None
    assert (problem.field, problem.code) == ("url", code)


def test_url_may_have_2048_characters_and_not_one_more() -> None:
    longest = "https://h/" + "x" * (URL_MAX_CHARACTERS - 10)
    assert POLICY.problem(longest) is None
    assert POLICY.problem(longest + "x") is not None


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1", "http://127.255.255.254:80/x", "http://[::1]/", "http://localhost"),
        *("http://a.localhost/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/"),
    ],
)
def test_loopback_is_refused_where_the_installation_says_so(url: str) -> None:
    problem = UrlPolicy(deny_loopback=True).problem(url)
    assert problem is not None
    assert problem.code == "url-address"


def test_other_hosts_are_taken_where_loopback_is_refused() -> None:
    for url in ("http://10.0.0.1", "http://localhost.example", "http://mylocalhost", "http://[2001:db8::1]"):
        assert UrlPolicy(deny_loopback=True).problem(url) is None


def test_schemes_are_those_of_the_installation() -> None:
    policy = UrlPolicy(schemes=("grpc", "https"))
    assert policy.problem("grpc://h:50051") is None
    problem = policy.problem("http://h")
    assert problem is not None
    assert problem.detail == "must begin with grpc:// or https://"


# -- what we accept, others understand in the same way

_labels = st.from_regex(r"[a-z0-9-]{1,6}", fullmatch=True)
_hosts = st.one_of(
    st.lists(_labels, min_size=1, max_size=3).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda a: f"[{a}]"),
    st.sampled_from(["127.1", "0x7f.1", "localhost", "[::1]", "xn--bcher-kva", "[::ffff:1.2.3.4]", "h."]),
)
_odd = st.sampled_from([*"\\@#?/:[]%.;&= \t\r\n\x00\x7fü＠／%", "//", "..", "%2e", "%00", "%2f", "@evil"])
_pieces = st.lists(st.one_of(_odd, st.from_regex(r"[a-z0-9]{1,3}", fullmatch=True)), max_size=5).map("".join)


@st.composite
def nearly_urls(draw: st.DrawFn) -> str:
    """Draw text that is a URL, or was one before a few characters went in."""
    port = draw(st.sampled_from(["", "", ":80", ":0", ":65536", ":", ":8a"]))
    rest = draw(
        st.one_of(st.just(""), _pieces.map(lambda p: "/" + p), _pieces.map(lambda p: "?" + p), _pieces)
    )
    url = (
        draw(st.sampled_from(["https://", "http://", "HTTPS://", "//", "https:/"]))
        + draw(_hosts)
        + port
        + rest
    )
    if draw(st.booleans()):
        at = draw(st.integers(0, len(url)))
        url = url[:at] + draw(_odd) + url[at:]
    return url


@settings(max_examples=400)
@given(nearly_urls())
@example("https://good.example\\@evil.example/")
@example("https://h\t/x")
@example("\x00https://h/")
@example("https://[::1]evil.example/")
@example("https://h/?@evil.example")
@example("https://h?@evil.example/")
def test_accepted_url_has_the_same_scheme_host_and_port_for_urlsplit(url: str) -> None:
    if POLICY.problem(url) is not None:
        return
    scheme, rest = url.split("://", 1)
    authority = rest.replace("?", "/").split("/")[0]
    host, port = authority, None
    if not authority.endswith("]") and ":" in authority.split("]")[-1]:
        host, _, digits = authority.rpartition(":")
        port = int(digits)
    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.port) == (scheme, host.strip("[]"), port)
    assert (parts.username, parts.password, parts.fragment) == (None, None, "")
    assert parts.geturl() in (url, url.removesuffix("?"))  # urlsplit drops an empty query


@settings(max_examples=200)
@given(st.one_of(nearly_urls(), st.text(max_size=20).map(lambda text: f"https://h/{text}")))
def test_problem_never_echoes_what_was_sent_and_never_fails(url: str) -> None:
    problem = POLICY.problem(url)
    if problem is not None and len(url) > 12:
        assert url not in problem.detail
