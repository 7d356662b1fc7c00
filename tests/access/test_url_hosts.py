"""Where the routes of tenants may point to, and the file that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.calls import BATCH, code_of
from tests.node import Node, a_key, path_of
from traffic_manager.access.url_hosts import hosts_by_tenant
from traffic_manager.routing.urls import UrlPolicy

FILE = {
    "team-a": ["api.example.com", "*.team-a.example.com", "[2001:db8::1]", "10.0.0.7"],
    "nowhere": [],
    "free": ["*"],
    "*": ["shared.example.com"],
}
POLICY = UrlPolicy(hosts=hosts_by_tenant(json.dumps(FILE)))


@pytest.mark.parametrize(
    ("tenant", "url"),
    [
        ("team-a", "https://api.example.com/v2"),
        ("team-a", "http://x.y.team-a.example.com:8080"),
        ("team-a", "https://[2001:db8::1]:443/"),
        ("team-a", "http://10.0.0.7"),
        ("free", "https://anything.example.org"),
        ("not-named", "https://shared.example.com"),
    ],
)
def test_a_tenant_s_routes_may_point_to_its_hosts(tenant: str, url: str) -> None:
    assert POLICY.problem(url, tenant) is None


@pytest.mark.parametrize(
    ("tenant", "url"),
    [
        ("team-a", "https://shared.example.com"),
        ("team-a", "https://team-a.example.com"),  # the name itself is not below it
        ("team-a", "https://notteam-a.example.com"),
        ("team-a", "https://api.example.com.evil.example"),
        ("team-a", "https://x.api.example.com"),
        ("team-a", "http://10.0.0.70"),
        ("nowhere", "https://shared.example.com"),
        ("not-named", "https://api.example.com"),
    ],
)
def test_and_to_no_other(tenant: str, url: str) -> None:
    problem = POLICY.problem(url, tenant)
    assert problem is not None
    assert problem.code == "url-tenant"


def test_without_an_entry_for_others_they_may_point_anywhere() -> None:
    policy = UrlPolicy(hosts=hosts_by_tenant('{"team-a": []}'))
    assert policy.problem("https://anything.example.org", "team-b") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "must be an object"),
        ('{"-a": []}', "or \\* for all"),
        ('{"a": "h"}', "a: must be a list of hosts"),
        ('{"a": ["https://h"]}', "is neither a host"),
        ('{"a": ["*"], "a": []}', "says something twice"),
        ('{"a": ["*.*.h"]}', "is neither a host"),
        ('{"a": ["H"]}', "is neither a host"),
        ('{"a": ["*.10.0.0.7"]}', "nothing below it"),
        ('{"a": ["0x7f.1"]}', "is neither a host"),
    ],
)
def test_a_bad_file_is_refused_and_told_where(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        hosts_by_tenant(text)


def test_a_server_goes_by_its_file_in_both_lanes_and_in_batches(tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps(FILE))
    with Node(tmp_path, {"URL_HOSTS_FILE": str(file)}).start() as node, node.client() as client:
        for bad, status in (("https://evil.example", 422), ("https://api.example.com", 201)):
            answer = client.put(path_of(a_key()), json={"url": bad})
            assert answer.status_code == status
        refused = client.put(
            path_of(a_key()), json={"url": "https://evil.example"}, headers={"If-Match": "*"}
        )
        assert (refused.status_code, code_of(refused)) == (422, "url-tenant")
        operations = [{"operation": "put", **a_key(), "url": "https://evil.example"}]
        batch = client.post(BATCH, json={"operations": operations})
        assert (batch.status_code, batch.json()["index"], code_of(batch)) == (
            422,
            0,
            "url-tenant",
        )


def test_a_server_with_a_bad_file_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "hosts.json"
    file.write_text("[]")
    with pytest.raises(AssertionError, match="URL_HOSTS_FILE: must be an object"):
        Node(tmp_path, {"URL_HOSTS_FILE": str(file)}).start()
