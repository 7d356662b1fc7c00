"""The file of issuers: what it may say, and that what it should not say is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.access.builders import a_grant
from tests.access.forge import URL, an_issuer, described
from traffic_manager.access.issuers import claim_in, issuers_of


def test_issuer_is_read_as_it_is_written() -> None:
    issuer = an_issuer(audiences=["a", "b"], subject="client_id", jwks_uri="https://keys.example.com/1")
    assert (issuer.name, issuer.url, sorted(issuer.audiences)) == ("corp", URL, ["a", "b"])
    assert issuer.grants["groups"]["ops"] == (a_grant("viewer:*/*"),)
    assert (issuer.subject, issuer.jwks_uri) == ("client_id", "https://keys.example.com/1")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "a b"}, "issuer 1: name: is no name"),
        ({"issuer": "http://id.example.com"}, "issuer corp: issuer: must begin with https://"),
        ({"issuer": "https://user@id.example.com"}, "issuer corp: issuer: must begin"),
        ({"issuer": "https://"}, "issuer corp: issuer: must begin"),
        ({"jwks_uri": "http://id.example.com/keys"}, "issuer corp: jwks_uri: must begin"),
        ({"audiences": []}, "issuer corp: audiences: must be a list"),
        ({"audiences": "traffic-manager"}, "issuer corp: audiences: must be a list"),
        ({"algorithms": []}, "issuer corp: algorithms: must be a list"),
        ({"algorithms": ["none"]}, "issuer corp: algorithms: none is not one of"),
        ({"algorithms": ["RS256", "HS256"]}, "issuer corp: algorithms: HS256 is not one of"),
        ({"grants": []}, "issuer corp: grants: must be an object"),
        ({"grants": {"groups": ["ops"]}}, "issuer corp: grants: groups: must be an object"),
        ({"grants": {"groups": {"ops": ["king:*/*"]}}}, "issuer corp: grants: groups: ops: must be ROLE"),
        ({"grants": {"a claim": {}}}, "issuer corp: grants: must be the name of a claim"),
        ({"secret": "x"}, "issuer 1: has an unknown secret"),
        ({"ca_file": 7}, "issuer corp: ca_file: must be a path"),
    ],
)
def test_bad_entry_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        an_issuer(**changes)


@pytest.mark.parametrize("changes", [{}, {"name": "other"}, {"issuer": "https://other.example.com"}])
def test_two_issuers_of_one_name_or_url_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="two issuers are the same"):
        issuers_of(json.dumps([described(), described(**changes)]))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("groups", ["a"]),
        ("https://example.com/groups", ["b"]),
        ("/realm_access/roles", ["c"]),
        ("/realm~1access/x~0y", "d"),
        ("/realm_access/roles/0", None),
        ("realm_access.roles", None),
        ("/missing/roles", None),
        ("missing", None),
    ],
)
def test_claim_is_found_by_its_name_or_its_place(claim: str, value: Any) -> None:
    claims = {
        "groups": ["a"],
        "https://example.com/groups": ["b"],
        "realm_access": {"roles": ["c"]},
        "realm/access": {"x~y": "d"},
    }
    assert claim_in(claims, claim) == value
