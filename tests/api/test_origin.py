"""A request's address is its connection's, unless proxies of ours vouch for another. Row A38 of the attacks."""

from __future__ import annotations

import pytest

from traffic_manager.api.origin import UNKNOWN, TrustedProxies, place_of

OURS = TrustedProxies(["10.0.0.0/8", "2001:db8:1::/48"])
PROXY = ("10.0.0.1", 5)
STRANGER = ("203.0.113.7", 5)
XFF = b"x-forwarded-for"
FORWARDED = b"forwarded"


def address_behind(value: bytes, proxies: TrustedProxies = OURS, name: bytes = XFF) -> str:
    """Return the address that our proxy says with *value*."""
    return proxies.address_of(PROXY, [(name, value)])


@pytest.mark.parametrize("name", [XFF, FORWARDED, b"x-real-ip", b"true-client-ip", b"x-client-ip"])
def test_stranger_s_headers_are_not_believed(name: bytes) -> None:
    headers = [(name, b"192.0.2.1"), (name, b"for=192.0.2.1")]
    assert OURS.address_of(STRANGER, headers) == "203.0.113.7"
    assert TrustedProxies([]).address_of(PROXY, headers) == "10.0.0.1"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"198.51.100.9, 192.0.2.1", "192.0.2.1"),  # what comes before is what the client wrote itself
        (b"192.0.2.1, 10.1.1.1,10.2.2.2", "192.0.2.1"),  # through several of ours
        (b"10.3.3.3, 10.1.1.1", "10.3.3.3"),  # all ours: the farthest
        (b"192.0.2.1:4711", "192.0.2.1"),
        (b"[2001:db8:2::7]:4711", "2001:db8:2::7"),
        (b"2001:db8:2:0::7", "2001:db8:2::7"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"192.0.2.1, 2001:db8:1::5", "192.0.2.1"),
        (b"\t 192.0.2.1 \t", "192.0.2.1"),
    ],
)  # fmt: skip
def test_last_address_that_is_no_proxy_s_counts(value: bytes, address: str) -> None:
    assert address_behind(value) == address


@pytest.mark.parametrize(
    "value",
    [b"", b"unknown", b"_hidden", b"192.0.2.1.evil", b"192.0.2.256", b"192.0.2.1, ", b"[192.0.2.1",
     b"192.0.2.1, what\x00ever", b"192.0.2.1\r\nx: y", b"0x7f.1", b"1", b"\xff\xfe", b"1" * 10_000, b"192.0.2.1%eth0",
     "１９２.0.2.1".encode()],
)  # fmt: skip
def test_what_is_no_address_leaves_the_proxy_that_said_it(value: bytes) -> None:
    assert address_behind(value) in ("10.0.0.1", "192.0.2.1")
    assert address_behind(b"192.0.2.77, " + value) != "192.0.2.77"


def test_several_headers_are_one_list() -> None:
    headers = [(XFF, b"198.51.100.9"), (XFF, b"192.0.2.1"), (XFF, b"10.1.1.1")]
    assert OURS.address_of(PROXY, headers) == "192.0.2.1"


@pytest.mark.parametrize(
    ("value", "address"),
    [
        (b"for=192.0.2.1", "192.0.2.1"),
        (b'For="[2001:db8:2::7]:4711";proto=https;by=10.0.0.1', "2001:db8:2::7"),
        (b"for=198.51.100.9, for=192.0.2.1;host=a", "192.0.2.1"),
        (b'for="198.51.100.9, for=192.0.2.1', "192.0.2.1"),  # a client's open quote hides nothing
        (b"for=192.0.2.1, for=unknown", "10.0.0.1"),
        (b"for=192.0.2.1;for=192.0.2.2", "10.0.0.1"),
        (b"proto=https", "10.0.0.1"),
        (b"192.0.2.1", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_where_it_is_what_our_proxies_write(value: bytes, address: str) -> None:
    ours = TrustedProxies(["10.0.0.0/8"], "forwarded")
    assert address_behind(value, ours, FORWARDED) == address


def test_only_the_one_header_that_our_proxies_write_is_read() -> None:
    both = [(FORWARDED, b"for=198.51.100.9"), (XFF, b"192.0.2.1")]
    assert OURS.address_of(PROXY, both) == "192.0.2.1"
    assert TrustedProxies(["10.0.0.0/8"], "forwarded").address_of(PROXY, both) == "198.51.100.9"


def test_one_caller_has_one_address_over_either_protocol() -> None:
    assert OURS.address_of(("::ffff:203.0.113.7", 5), []) == "203.0.113.7"
    assert TrustedProxies(["10.0.0.0/8"]).trusts(("::ffff:10.0.0.1", 5))


def test_addresses_of_one_ipv6_network_have_one_place() -> None:
    assert place_of("2001:db8:1:2::7") == place_of("2001:db8:1:2:ffff::1") != place_of("2001:db8:1:3::7")
    assert (place_of("192.0.2.1"), place_of(UNKNOWN)) == ("192.0.2.1", UNKNOWN)


def test_interface_of_a_neighbour_is_left_out() -> None:
    assert OURS.address_of(("fe80::7%eth0", 5), []) == "fe80::7"


def test_who_is_gone_already_is_unknown() -> None:
    assert OURS.address_of(None, [(XFF, b"192.0.2.1")]) == UNKNOWN
    assert not OURS.trusts(None)
