"""The README's way to production works as it stands there: its very commands, in an empty folder."""

from __future__ import annotations

import re

import pytest

from tests.docs.shown import ROOT, printed_by
from tests.servers.ports import free_port

(BLOCK,) = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
SERVE = "traffic-manager serve --migrate"
# What follows the README's commands here: what a client sees of them, and the end of the server.
LOOK = """
traffic-manager --key-file secrets/ci.key resolve team-a/payments/prod/v2
curl -s -o /dev/null -w '%{http_code}\\n' --cacert secrets/tls.crt "$TM_URL/api/v1/routes"
curl -s -o /dev/null -w '%{http_code}\\n' --cacert secrets/tls.crt "$TM_URL/health"
stat -c '%n %a' secrets/*
kill $!
wait $!
echo "ended with $?"
"""


def commands() -> list[str]:
    """Return the commands of the block."""
    lines: list[str] = BLOCK.replace("\\\n", " ").strip().splitlines()
    return lines


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what a person sees who types them. Only the port is another, the server's log goes to a file,
    and what is installed here is not again."""
    folder = tmp_path_factory.mktemp("production")
    first, *others = commands()
    assert first.startswith("make install && export PATH=")
    assert SERVE in BLOCK
    port = str(free_port())
    script = (
        "\n".join([*others, LOOK]).replace(":8000", f":{port}").replace(SERVE, f"{SERVE} > server.log 2>&1")
    )
    return printed_by(script, folder, {"API_PORT": port, "DRAIN_SECONDS": "0"})


def test_they_are_ten() -> None:
    assert len(commands()) == 10


def test_the_route_resolves_over_tls(shown: str) -> None:
    assert "\nhttps://payments.example.com/v2\n" in shown


def test_a_stranger_gets_nothing_but_health(shown: str) -> None:
    assert "\n401\n200\n" in shown


def test_secrets_are_for_their_owner_alone(shown: str) -> None:
    modes = dict(re.findall(r"^secrets/(\S+) (\d+)$", shown, re.MULTILINE))
    assert {modes[name] for name in ("admin.key", "ci.key", "pepper", "tls.key")} == {"600"}


def test_the_server_ends_well(shown: str) -> None:
    assert "ended with 0" in shown
