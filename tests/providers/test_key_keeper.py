"""Keys are asked for when they are not known, once for all who wait and not often; those at hand last for a day."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from tests.access.forge import AUDIENCE, claims, jwks, rsa, token
from tests.monitoring.exposition import values
from tests.providers.stub import CONFIGURATION, JWKS, PATIENCE_S, Stub, answer
from traffic_manager.access.admitted import Admitted
from traffic_manager.access.issuers import issuers_of
from traffic_manager.access.tokens import KEYS_LAST_S, Tokens
from traffic_manager.errors import IssuerUnavailable, SigningKeyUnknown
from traffic_manager.monitoring.metrics import Metrics
from traffic_manager.providers import documents, key_keeper
from traffic_manager.providers.key_keeper import ASKED_AT_MOST, ASKED_WITHIN_S, KeyKeeper

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _has_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "FETCH_S", PATIENCE_S)
    monkeypatch.setattr(key_keeper, "PATIENCE_S", 2 * PATIENCE_S)


class Scene:
    """A keeper of one issuer's keys, on a clock that the test sets."""

    def __init__(self, stub: Stub) -> None:
        self.now = NOW
        self.metrics = Metrics()
        self._stub = stub
        issuers = issuers_of(json.dumps([stub.described()]))
        self.tokens = Tokens(issuers, Admitted(lambda: self.now))
        self.keeper = KeyKeeper(issuers, self.tokens, self.metrics, lambda: self.now)

    def token(self, kid: str = "r1") -> bytes:
        """Return a token that is good if its key is."""
        return token(claims(self.now, iss=self._stub.url, aud=AUDIENCE), rsa(kid))

    async def ask(self, times: int = 1) -> list[bool]:
        """Ask one time after the other; return whether what is known was what the issuer says."""
        return [await self.keeper.ask("corp") for _ in range(times)]

    def counted(self, outcome: str) -> float:
        """Return how often the issuer was asked."""
        return values(self.metrics.render())[f'tm_issuer_fetches_total{{outcome="{outcome}"}}']


def played(stub: Stub, play: Callable[[Scene], Awaitable[None]]) -> None:
    """Run *play*."""

    async def run() -> None:
        await play(Scene(stub))

    asyncio.run(run())


def test_without_keys_a_token_can_be_neither_taken_nor_refused_until_the_issuer_was_asked(stub: Stub) -> None:
    async def play(scene: Scene) -> None:
        with pytest.raises(IssuerUnavailable):
            scene.tokens.principal_of(scene.token())
        await scene.ask()
        assert scene.tokens.principal_of(scene.token()).name == "token:corp/alice"
        assert scene.counted("ok") == 1

    played(stub, play)


def test_new_key_is_found_and_one_that_is_gone_ends_its_tokens(stub: Stub) -> None:
    async def play(scene: Scene) -> None:
        await scene.ask()
        old, new = scene.token("r1"), scene.token("r2")
        principal = scene.tokens.principal_of(old)
        with pytest.raises(SigningKeyUnknown):
            scene.tokens.principal_of(new)
        stub.keys = jwks(rsa("r2"))
        await scene.ask()
        assert scene.tokens.principal_of(new).signer == ("corp", "r2")
        assert not scene.tokens.knows(principal)
        with pytest.raises(SigningKeyUnknown):
            scene.tokens.principal_of(old)

    played(stub, play)


def test_flood_of_unknown_keys_asks_the_issuer_twice_a_minute(stub: Stub) -> None:
    async def play(scene: Scene) -> None:
        assert all(await scene.ask(50))
        assert stub.asked[JWKS] == ASKED_AT_MOST
        scene.now += ASKED_WITHIN_S + 1
        await scene.ask(50)
        assert stub.asked[JWKS] == 2 * ASKED_AT_MOST

    played(stub, play)


def test_all_who_wait_at_a_time_ask_once(stub: Stub) -> None:
    async def play(scene: Scene) -> None:
        await asyncio.gather(*(scene.ask() for _ in range(50)))
        assert stub.asked == {CONFIGURATION: 1, JWKS: 1}

    played(stub, play)


def test_provider_that_fails_changes_nothing_for_a_day(stub: Stub) -> None:
    async def play(scene: Scene) -> None:
        await scene.ask()
        stub.answers = {JWKS: answer(b"{}", 503), CONFIGURATION: answer(b"{}", 503)}
        scene.now += KEYS_LAST_S - 1
        assert await scene.ask(3) == [False] * 3
        assert scene.tokens.principal_of(scene.token())
        assert scene.keeper.age_s == KEYS_LAST_S - 1
        assert scene.counted("failed") == 2
        scene.now += 1
        with pytest.raises(IssuerUnavailable):
            scene.tokens.principal_of(scene.token())

    played(stub, play)


def test_each_question_has_a_connection_of_its_own(stub: Stub) -> None:
    """One that was kept could have been closed by a provider that was restarted."""

    async def play(scene: Scene) -> None:
        await scene.ask(2)
        assert stub.connections == stub.asked.total() == 3

    played(stub, play)


def test_place_of_the_keys_is_looked_up_again_when_it_fails(stub: Stub) -> None:
    async def play(scene: Scene) -> None:
        await scene.ask()
        stub.answers = {JWKS: answer(b"{}", 404)}
        await scene.ask()
        moved = json.dumps({"issuer": stub.url, "jwks_uri": f"{stub.url}/moved"}).encode()
        stub.answers |= {CONFIGURATION: answer(moved), "/moved": answer(json.dumps(jwks(rsa("r2"))).encode())}
        scene.now += ASKED_WITHIN_S + 1
        await scene.ask()
        assert scene.tokens.principal_of(scene.token("r2"))

    played(stub, play)


@pytest.mark.parametrize("bound", ["FETCH_S", "PATIENCE_S"])
def test_whoever_waits_for_a_provider_that_hangs_is_let_go(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(documents if bound == "FETCH_S" else key_keeper, bound, 0.3)

    async def play(scene: Scene) -> None:
        stub.answers = {CONFIGURATION: stub.hang}
        asked = await asyncio.gather(*(scene.ask() for _ in range(20)))
        assert asked == [[False]] * 20
        with pytest.raises(IssuerUnavailable):
            scene.tokens.principal_of(scene.token())

    played(stub, play)
