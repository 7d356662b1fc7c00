"""What every pytest fixture of a server does."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .programs import NotInstalled
from .server import Server


def started(server: Server) -> Iterator[Server]:
    """Yield *server*, running, and close it afterwards. Without its program the test fails in CI and is
    skipped, loudly, elsewhere."""
    try:
        server.start()
    except NotInstalled as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: in CI every server must be there")
        pytest.skip(f"NEEDS A REAL SERVER: {missing}")
    try:
        yield server
    finally:
        server.close()
