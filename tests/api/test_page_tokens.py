"""Page tokens are those of the servers that share a pepper, and of one question, to the last bit."""

from __future__ import annotations

import base64
import string

import pytest

from traffic_manager.api.pages import Asked, PageTokens
from traffic_manager.errors import InvalidInput
from traffic_manager.routing.model import RouteKey

LAST = RouteKey.of("team-a", "payments", "prod", "v2")
ASKED: Asked = ("team-a", None, None, None, None)
PEPPER = b"0123456789abcdef0123456789abcdef"
OURS = PageTokens(PEPPER)
CHARACTERS = string.ascii_letters + string.digits + "-_"


@pytest.mark.parametrize("pepper", [PEPPER, None])
def test_another_node_reads_what_one_made(pepper: bytes | None) -> None:
    token = PageTokens(pepper).token_of(LAST, ASKED)
    assert PageTokens(pepper).key_after(token, ASKED) == LAST


@pytest.mark.parametrize("pepper", [PEPPER[::-1], b"", None])
def test_nobody_without_the_pepper_makes_one(pepper: bytes | None) -> None:
    with pytest.raises(InvalidInput):
        OURS.key_after(PageTokens(pepper).token_of(LAST, ASKED), ASKED)


def test_digest_of_one_place_is_of_no_use_for_another() -> None:
    digest = base64.urlsafe_b64decode(OURS.token_of(7, ASKED) + "==")[2:26].decode()
    made_up = base64.urlsafe_b64encode(f'["{digest}",6]'.encode()).decode().rstrip("=")
    assert OURS.revision_below(OURS.token_of(7, ASKED), ASKED) == 7
    with pytest.raises(InvalidInput):
        OURS.revision_below(made_up, ASKED)


def test_every_other_text_near_one_is_refused() -> None:
    token = OURS.token_of(LAST, ASKED)
    near = {token[:at] + c + token[at + 1 :] for at in range(len(token)) for c in CHARACTERS}
    near |= {token[:at] for at in range(len(token))} | {token + c for c in CHARACTERS + "="}
    for text in near - {token}:
        with pytest.raises(InvalidInput):
            OURS.key_after(text, ASKED)
