"""API keys from the command line: the first one beside the server, the others by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.access.issue import REQUIRED
from tests.cli.conftest import COMMAND, TIMEOUT_S, Result
from tests.cli.proxy import Fault, losing
from tests.node import Node, wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that asks everybody for a key."""
    with Node(tmp_path_factory.mktemp("guarded"), REQUIRED) as node:
        yield node.start()


def beside(node: Node, *words: str, **variables: str) -> Result:
    """Run a command on the server's machine, with its settings."""
    return _run(words, {**node.environment, **variables})


def at(node: Node, *words: str, **variables: str) -> Result:
    """Run a command somewhere else, as a client of the server."""
    return _run(words, {"PATH": os.environ["PATH"], "TM_URL": node.url, **variables})


def _run(words: tuple[str, ...], environment: Mapping[str, str]) -> Result:
    done = subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, env=environment, timeout=TIMEOUT_S
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def admin(node: Node) -> str:
    """The first key."""
    key = beside(node, "keys", "create", "--role", "admin", "--owner", "root").out.strip()
    wait_until(lambda: at(node, "whoami", TM_API_KEY=key).code == 0)
    return key


def test_first_key_is_made_beside_the_server_and_opens_it(node: Node, admin: str) -> None:
    found = at(node, "whoami", "-o", "json", TM_API_KEY=admin).document
    assert found["name"].startswith("root/")
    assert [(g["role"], g["tenant"], g["env"]) for g in found["grants"]] == [("admin", "*", "*")]


def test_key_goes_alone_to_stdout_and_what_is_said_of_it_to_stderr(node: Node, admin: str) -> None:
    made = beside(node, "keys", "create", "--grant", "viewer:team-a/prod", "--owner", "ci")
    assert made.out.startswith("tmk_")
    assert made.out.count("\n") == 1
    assert "directly in the database: SQLite" in made.err
    assert "of ci: viewer:team-a/prod" in made.err
    assert made.out.strip() not in made.err


def test_first_key_can_be_made_before_the_server_ever_ran(tmp_path: Path) -> None:
    node = Node(tmp_path, REQUIRED)
    key = beside(node, "keys", "create", "--role", "viewer").out.strip()
    with node.start():
        assert at(node, "routes", "list", TM_API_KEY=key).code == 0


def test_without_a_key_the_server_is_closed_and_the_hint_says_what_to_do(node: Node) -> None:
    refused = at(node, "routes", "list")
    assert refused.code == 1
    assert "TM_API_KEY" in refused.err
    assert "--key-file" in refused.err


def test_what_a_key_may_not_do_is_refused_with_a_hint(node: Node, admin: str) -> None:
    made = at(node, "keys", "create", "--role", "resolver", "--tenant", "team-a", TM_API_KEY=admin)
    refused = at(
        node, "routes", "put", "team-a/s/prod/v1", "https://a.example.com", TM_API_KEY=made.out.strip()
    )
    assert refused.code == 1
    assert "traffic-manager whoami" in refused.err


def test_key_may_come_from_a_file(node: Node, admin: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(admin + "\n")
    assert _run(("--key-file", str(file), "whoami"), {"TM_URL": node.url}).code == 0
    assert at(node, "whoami", TM_API_KEY_FILE=str(file)).code == 0
    missing = _run(("--key-file", str(tmp_path / "no"), "whoami"), {"TM_URL": node.url})
    assert missing.code == 2
    assert "--key-file" in missing.err


@pytest.mark.parametrize("key", ["two words", "k\u00e9y\x1b[31m"])
def test_thing_that_is_no_key_is_neither_sent_nor_shown(node: Node, key: str) -> None:
    refused = at(node, "whoami", TM_API_KEY=key)
    assert refused.code == 2
    assert key not in refused.err


def test_keys_are_made_listed_rotated_and_revoked_by_the_server(node: Node, admin: str) -> None:
    def tm(*words: str) -> Result:
        return at(node, "keys", *words, "-o", "json", TM_API_KEY=admin)

    made = tm("create", "--owner", "ci", "--grant", "editor:team-a/prod", "--expires-in-days", "7").document
    assert made["created_by"].startswith("root/")
    new = tm("rotate", made["id"], "--overlap", "60").document
    assert new["key"] != made["key"]
    assert tm("revoke", made["id"]).document["state"] == "revoked"
    states = {key["id"]: key["state"] for key in tm("list").document["keys"]}
    assert (states[made["id"]], states[new["id"]]) == ("revoked", "live")
    assert at(node, "whoami", TM_API_KEY=made["key"]).code == 1
    assert at(node, "whoami", TM_API_KEY=new["key"]).code == 0
    assert made["key"][17:60] not in tm("list").out


def test_key_whose_text_was_lost_on_the_way_is_made_once_and_named(node: Node, admin: str) -> None:
    with losing(node.port, {1: Fault.LOSE_ANSWER}) as proxy:
        words = ("keys", "create", "--role", "viewer", "--owner", "lost")
        lost = at(node, *words, TM_API_KEY=admin, TM_URL=proxy.url)
    assert (lost.code, lost.out) == (4, "")
    listed = at(node, "keys", "list", "-o", "json", TM_API_KEY=admin).document["keys"]
    (made,) = [key for key in listed if key["owner"] == "lost"]
    assert f"`traffic-manager keys revoke {made['id']}`" in lost.err


@pytest.mark.parametrize("place", [beside, at])
def test_unknown_key_is_not_found(node: Node, admin: str, place: object) -> None:
    run = at if place is at else beside
    found = run(node, "keys", "revoke", "nosuchkey000", **({"TM_API_KEY": admin} if run is at else {}))
    assert found.code == 3
    assert "keys list" in found.err


def test_last_key_lost_is_no_end(node: Node, admin: str) -> None:
    lost = at(node, "keys", "create", "--role", "admin", "-o", "json", TM_API_KEY=admin).document
    assert beside(node, "keys", "revoke", lost["id"]).code == 0
    wait_until(lambda: at(node, "whoami", TM_API_KEY=lost["key"]).code == 1)


@pytest.mark.parametrize(
    "words",
    [
        ("create",),
        ("create", "--role", "viewer", "--tenant", "a/b"),
        ("create", "--grant", "viewer:a"),
        ("create", "--grant", "viewer:a/b/c"),
        ("create", "--role", "viewer", "--owner", "no name"),
        ("revoke", "tmk_3fPq9ZxW1kLm_" + 43 * "a" + "_0aB1cD"),
    ],
)
def test_wrong_use_is_told_before_anything_is_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    used = _run(
        ("keys", *words), {"PATH": os.environ["PATH"], "DB_PATH": str(tmp_path / "no.db"), **REQUIRED}
    )
    assert used.code == 2
    assert not (tmp_path / "no.db").exists()


def test_without_a_pepper_no_key_is_made(tmp_path: Path) -> None:
    found = _run(("keys", "create", "--role", "viewer"), {"DB_PATH": str(tmp_path / "r.db")})
    assert found.code == 1
    assert "AUTH_PEPPER is not set" in found.err


def test_secrets_are_in_no_setting_shown(node: Node) -> None:
    shown = beside(node, "config", "show")
    assert "AUTH_PEPPER=***" in shown.out
    assert REQUIRED["AUTH_PEPPER"] not in shown.out


def test_key_of_a_running_command_is_not_in_the_list_of_processes(node: Node, admin: str) -> None:
    environment = {"PATH": os.environ["PATH"], "TM_URL": node.url, "TM_API_KEY": admin}
    running = subprocess.Popen(
        [sys.executable, "-m", "traffic_manager.cli", "changes", "--follow"], env=environment
    )
    try:
        line = wait_until(Path(f"/proc/{running.pid}/cmdline").read_bytes)
        assert b"changes" in line
        assert admin.encode() not in line
    finally:
        running.kill()
        running.wait()
