"""A provider that tests can break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.access.authority import Authority
from tests.access.forge import jwks, rsa
from tests.providers.stub import Stub, a_provider


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whose certificates the provider shows."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def stub(authority: Authority) -> Iterator[Stub]:
    """A provider with one key."""
    with a_provider(authority, jwks(rsa("r1"))) as stub:
        yield stub
