"""What each call on one route answers, on every stack: statuses, bodies and headers."""

from __future__ import annotations

import re

import httpx2
import pytest

from tests.api.calls import (
    OTHER_URL,
    ROUTES,
    URL,
    a_fresh_key,
    code_of,
    create,
    created,
    deactivated,
    fields_of,
    head_of,
    revision_of,
)
from tests.node import Json, a_key, path_of, resolve

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def _resolved(api: httpx2.Client, key: dict[str, str]) -> httpx2.Response:
    """Resolve not earlier than the newest change, whichever worker answers."""
    return resolve(api, key, tm_min_revision=head_of(api))


class TestCreate:
    def test_new_route_is_answered_with_201_its_place_and_its_tag(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        answer = api.post(ROUTES, json={**key, "url": URL})
        token = answer.headers["TM-Revision"]
        assert (answer.status_code, answer.headers["Location"]) == (201, path_of(key))
        assert (answer.headers["ETag"], token) == (f'"{token}"', head_of(api))

    def test_new_route_is_active_and_has_the_revision_of_its_change(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        answer = api.post(ROUTES, json={**key, "url": URL})
        route = answer.json()
        assert TIME.fullmatch(route.pop("created_at"))
        assert TIME.fullmatch(route.pop("updated_at"))
        revision = revision_of(answer.headers["TM-Revision"])
        assert route == {**key, "url": URL, "is_active": True, "revision": revision}

    def test_same_active_route_again_is_200_and_no_change(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        first = create(api, key)
        again = api.post(ROUTES, json={**key, "url": URL})
        assert (again.status_code, again.json(), head_of(api)) == (
            200,
            first.json(),
            first.headers["TM-Revision"],
        )
        assert again.headers["ETag"] == first.headers["ETag"]
        assert "Location" not in again.headers

    def test_another_url_is_refused_with_the_route_as_it_is(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        first = create(api, key)
        answer = api.post(ROUTES, json={**key, "url": OTHER_URL})
        assert (answer.status_code, code_of(answer)) == (409, "route-conflict")
        assert answer.json()["current"] == first.json()
        assert answer.headers["TM-Revision"] == head_of(api) == first.headers["TM-Revision"]

    def test_same_url_of_an_inactive_route_is_refused_too(self, api: httpx2.Client) -> None:
        key = deactivated(api)
        answer = api.post(ROUTES, json={**key, "url": URL})
        assert (answer.status_code, answer.json()["current"]["is_active"]) == (409, False)

    def test_deleted_route_can_be_created_again(self, api: httpx2.Client) -> None:
        key = created(api)
        api.delete(path_of(key))
        assert api.post(ROUTES, json={**key, "url": OTHER_URL}).status_code == 201
        assert _resolved(api, key).json()["url"] == OTHER_URL

    def test_url_is_stored_byte_for_byte(self, api: httpx2.Client) -> None:
        key, url = a_fresh_key(), "https://a.example.com:8443/%7Ex//y?q=%2F&r=a;b,c"
        create(api, key, url)
        assert _resolved(api, key).json()["url"] == api.get(path_of(key)).json()["url"] == url


class TestResolve:
    def test_active_route_resolves_to_its_url_and_nothing_else(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        made = create(api, key)
        answer = _resolved(api, key)
        assert answer.status_code == 200
        assert answer.json() == {**key, "url": URL, "revision": made.json()["revision"]}

    def test_answer_has_the_routes_tag_and_the_revision_it_was_true_at(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        tag = create(api, key).headers["ETag"]
        created(api)
        answer = _resolved(api, key)
        assert (answer.headers["ETag"], answer.headers["TM-Revision"]) == (tag, head_of(api))
        assert answer.headers["Cache-Control"] == "private, no-cache"

    def test_known_tag_is_answered_with_304_and_no_body(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        tag = create(api, key).headers["ETag"]
        for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            answer = resolve(api, key, tm_min_revision=head_of(api), if_none_match=given)
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)

    def test_old_tag_is_answered_in_full(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        tag = create(api, key).headers["ETag"]
        api.put(path_of(key), json={"url": OTHER_URL})
        answer = resolve(api, key, tm_min_revision=head_of(api), if_none_match=tag)
        assert (answer.status_code, answer.json()["url"]) == (200, OTHER_URL)

    def test_unknown_route_is_404_as_of_a_revision(self, api: httpx2.Client) -> None:
        answer = _resolved(api, a_fresh_key())
        assert (answer.status_code, code_of(answer)) == (404, "route-not-found")
        assert answer.headers["TM-Revision"] == head_of(api)

    def test_inactive_route_is_404_even_for_a_known_tag(self, api: httpx2.Client) -> None:
        key = deactivated(api)
        tag = api.get(path_of(key)).headers["ETag"]
        assert resolve(api, key, tm_min_revision=head_of(api), if_none_match=tag).status_code == 404

    def test_names_that_differ_in_case_are_different_routes(self, api: httpx2.Client) -> None:
        key = created(api, service="Payments")
        assert _resolved(api, {**key, "service": "payments"}).status_code == 404

    def test_plus_and_tilde_in_a_name_arrive_when_escaped(self, api: httpx2.Client) -> None:
        key = created(api, version="v2+build~1")
        assert _resolved(api, key).json()["version"] == "v2+build~1"

    @pytest.mark.parametrize("left_out", ["tenant", "service", "env", "version"])
    def test_missing_name_is_400_and_named(self, api: httpx2.Client, left_out: str) -> None:
        names = {name: value for name, value in a_key().items() if name != left_out}
        answer = api.get(f"{ROUTES}/resolve", params=names)
        assert (answer.status_code, code_of(answer)) == (400, "missing-parameter")
        assert fields_of(answer) == [left_out]


class TestActivateAndDeactivate:
    def test_deactivated_route_stays_but_does_not_resolve(self, api: httpx2.Client) -> None:
        key = created(api)
        answer = api.post(f"{ROUTES}/deactivate", json=key)
        assert (answer.status_code, answer.json()["is_active"]) == (200, False)
        assert answer.headers["ETag"] == f'"{answer.headers["TM-Revision"]}"'
        assert (_resolved(api, key).status_code, api.get(path_of(key)).json()) == (404, answer.json())

    def test_activated_route_resolves_again(self, api: httpx2.Client) -> None:
        key = deactivated(api)
        answer = api.post(f"{ROUTES}/activate", json=key)
        assert (answer.status_code, answer.json()["is_active"]) == (200, True)
        assert _resolved(api, key).status_code == 200

    @pytest.mark.parametrize("verb", ["activate", "deactivate"])
    def test_route_that_is_so_already_is_200_and_no_change(self, api: httpx2.Client, verb: str) -> None:
        key = created(api) if verb == "activate" else deactivated(api)
        before, head = api.get(path_of(key)).json(), head_of(api)
        answer = api.post(f"{ROUTES}/{verb}", json=key)
        assert (answer.status_code, answer.json(), head_of(api)) == (200, before, head)

    @pytest.mark.parametrize("verb", ["activate", "deactivate"])
    def test_unknown_route_is_404(self, api: httpx2.Client, verb: str) -> None:
        head = head_of(api)
        answer = api.post(f"{ROUTES}/{verb}", json=a_fresh_key())
        assert (answer.status_code, code_of(answer)) == (404, "route-not-found")
        assert answer.headers["TM-Revision"] == head_of(api) == head


class TestGet:
    def test_inactive_route_can_be_read(self, api: httpx2.Client) -> None:
        answer = api.get(path_of(deactivated(api)))
        assert (answer.status_code, answer.json()["is_active"]) == (200, False)

    def test_answer_has_the_routes_tag_and_the_head_it_was_read_at(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        tag = create(api, key).headers["ETag"]
        created(api)
        answer = api.get(path_of(key))
        assert (answer.headers["ETag"], answer.headers["TM-Revision"]) == (tag, head_of(api))

    def test_known_tag_is_answered_with_304_and_no_body(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        tag = create(api, key).headers["ETag"]
        for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
            answer = api.get(path_of(key), headers={"If-None-Match": given})
            assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
            assert answer.headers["TM-Revision"] == head_of(api)

    def test_unknown_route_is_404_as_of_the_head(self, api: httpx2.Client) -> None:
        answer = api.get(path_of(a_fresh_key()), headers={"If-None-Match": "*"})
        assert (answer.status_code, code_of(answer)) == (404, "route-not-found")
        assert answer.headers["TM-Revision"] == head_of(api)


class TestPut:
    def test_new_route_is_201_with_its_place(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        answer = api.put(path_of(key), json={"url": URL})
        assert (answer.status_code, answer.headers["Location"]) == (201, path_of(key))
        assert answer.json()["is_active"] is True

    def test_new_route_can_begin_inactive(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        answer = api.put(path_of(key), json={"url": URL, "is_active": False})
        assert (answer.status_code, _resolved(api, key).status_code) == (201, 404)

    def test_new_url_is_200_and_resolves(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        made = create(api, key).json()
        answer = api.put(path_of(key), json={"url": OTHER_URL})
        assert (answer.status_code, answer.json()["created_at"]) == (200, made["created_at"])
        assert "Location" not in answer.headers
        assert _resolved(api, key).json()["url"] == OTHER_URL

    @pytest.mark.parametrize("left_open", [{}, {"is_active": None}])
    def test_state_that_is_left_open_stays(self, api: httpx2.Client, left_open: Json) -> None:
        key = deactivated(api)
        answer = api.put(path_of(key), json={"url": OTHER_URL, **left_open})
        assert (answer.json()["url"], answer.json()["is_active"]) == (OTHER_URL, False)

    def test_url_and_state_change_together(self, api: httpx2.Client) -> None:
        key = deactivated(api)
        answer = api.put(path_of(key), json={"url": OTHER_URL, "is_active": True})
        assert (answer.json()["url"], answer.json()["is_active"]) == (OTHER_URL, True)

    def test_route_that_is_so_already_is_200_and_no_change(self, api: httpx2.Client) -> None:
        key = a_fresh_key()
        made = create(api, key)
        answer = api.put(path_of(key), json={"url": URL, "is_active": True})
        assert (answer.status_code, answer.json()) == (200, made.json())
        assert answer.headers["ETag"] == made.headers["ETag"]
        assert head_of(api) == made.headers["TM-Revision"]


class TestDelete:
    def test_deleted_route_is_gone_and_the_answer_is_empty(self, api: httpx2.Client) -> None:
        key = created(api)
        answer = api.delete(path_of(key))
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["TM-Revision"] == head_of(api)
        assert (_resolved(api, key).status_code, api.get(path_of(key)).status_code) == (404, 404)

    def test_second_delete_is_404_and_no_change(self, api: httpx2.Client) -> None:
        key = created(api)
        head = api.delete(path_of(key)).headers["TM-Revision"]
        answer = api.delete(path_of(key))
        assert (answer.status_code, code_of(answer)) == (404, "route-not-found")
        assert answer.headers["TM-Revision"] == head_of(api) == head


class TestHistory:
    def test_changes_of_a_route_are_told_newest_first(self, api: httpx2.Client) -> None:
        key = created(api)
        api.put(path_of(key), json={"url": OTHER_URL})
        api.post(f"{ROUTES}/deactivate", json=key)
        api.post(f"{ROUTES}/activate", json=key)
        api.delete(path_of(key))
        found = api.get(f"{path_of(key)}/history").json()
        actions = [change["action"] for change in found["changes"]]
        assert actions == ["deleted", "activated", "deactivated", "updated", "created"]
        revisions = [change["revision"] for change in found["changes"]]
        assert revisions == sorted(revisions, reverse=True)
        assert (found["truncated"], found["next_page_token"]) == (False, None)

    def test_change_tells_the_state_before_and_after_who_and_in_which_request(
        self, api: httpx2.Client
    ) -> None:
        key = a_fresh_key()
        made = create(api, key).json()
        request_id = {"X-Correlation-ID": "history-1"}
        done = api.put(path_of(key), json={"url": OTHER_URL}, headers=request_id)
        change = api.get(f"{path_of(key)}/history").json()["changes"][0]
        assert change == {
            **key,
            "revision": revision_of(done.headers["TM-Revision"]),
            "batch_end": revision_of(done.headers["TM-Revision"]),
            "action": "updated",
            "url": OTHER_URL,
            "is_active": True,
            "previous": {"url": URL, "is_active": True, "revision": made["revision"]},
            "actor": "anonymous",
            "address": "127.0.0.1",
            "reason": None,
            "correlation_id": "history-1",
            "occurred_at": done.json()["updated_at"],
        }

    def test_deletion_leaves_no_url_and_creation_has_nothing_before(self, api: httpx2.Client) -> None:
        key = created(api)
        api.delete(path_of(key))
        deletion, creation = api.get(f"{path_of(key)}/history").json()["changes"]
        assert (deletion["url"], deletion["is_active"], creation["previous"]) == (None, False, None)

    def test_route_that_never_was_has_an_empty_history(self, api: httpx2.Client) -> None:
        answer = api.get(f"{path_of(a_fresh_key())}/history")
        assert (answer.status_code, answer.json()["changes"]) == (200, [])
        assert answer.headers["TM-Revision"] == head_of(api)


class TestCorrelationId:
    @pytest.mark.parametrize("path", ["/api/v1/routes", "/api/v1/routes/resolve", "/health", "/nowhere"])
    def test_wellformed_id_comes_back_with_every_answer(self, api: httpx2.Client, path: str) -> None:
        answer = api.get(path, headers={"X-Correlation-ID": "A-z.0_9"})
        assert answer.headers.get_list("X-Correlation-ID") == ["A-z.0_9"]

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a;b", "a\u00e9"])
    def test_illformed_id_is_replaced(self, api: httpx2.Client, given: str) -> None:
        headers = [(b"X-Correlation-ID", given.encode("latin-1"))]
        found = api.get("/api/v1/routes/resolve", headers=headers).headers.get_list("X-Correlation-ID")
        assert len(found) == 1
        assert found[0] != given

    def test_made_ids_differ(self, api: httpx2.Client) -> None:
        found = {api.get("/health").headers["X-Correlation-ID"] for _ in range(5)}
        assert len(found) == 5


class TestWrongPlace:
    def test_unknown_path_is_a_problem_404(self, api: httpx2.Client) -> None:
        answer = api.get("/api/v1/nothing")
        assert (answer.status_code, code_of(answer)) == (404, "not-found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("PATCH", "/api/v1/routes/a/b/c/d", {"GET", "HEAD", "PUT", "DELETE"}),
            ("DELETE", "/api/v1/routes", {"GET", "HEAD", "POST"}),
            ("PUT", "/api/v1/routes/resolve", {"GET", "HEAD", "POST"}),
            ("GET", "/api/v1/routes/batch", {"POST"}),
            ("PUT", "/api/v1/changes", {"GET", "HEAD"}),
            ("POST", "/health", {"GET", "HEAD"}),
        ],
    )
    def test_wrong_method_is_405_and_told_the_right_ones(
        self, api: httpx2.Client, method: str, path: str, allowed: set[str]
    ) -> None:
        answer = api.request(method, path)
        assert (answer.status_code, code_of(answer)) == (405, "method-not-allowed")
        assert {name.strip() for name in answer.headers["Allow"].split(",")} == allowed
