"""A real Prometheus, to be asked what it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from . import programs
from .server import Server

ANSWER_TIMEOUT_S = 10.0


class PrometheusServer(Server):
    """Reads the configuration *config* where it lies, with all that it names."""

    name = "prometheus"

    def __init__(self, config: Path) -> None:
        super().__init__()
        self._config = config

    def env(self) -> dict[str, str]:
        """Return nothing: we know nothing of a Prometheus."""
        return {}

    def now(self, question: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the labels and the value of each series that answers. Raises RuntimeError with what is wrong."""
        found = self._ask("/api/v1/query", {"query": question})["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def over(
        self, question: str, start: float, end: float, step_s: float
    ) -> Any:  # Any: as Prometheus says it
        """Return the series of a time, in seconds since 1970. Raises RuntimeError with what is wrong."""
        asked = {"query": question, "start": str(start), "end": str(end), "step": str(step_s)}
        return self._ask("/api/v1/query_range", asked)["result"]

    def rules(self) -> list[Any]:  # Any: as Prometheus says it
        """Return every rule, with its health and its last error."""
        return [rule for group in self._ask("/api/v1/rules", {})["groups"] for rule in group["rules"]]

    def targets(self) -> list[Any]:  # Any: as Prometheus says it
        """Return what it scrapes, with health and last error."""
        found: list[Any] = self._ask("/api/v1/targets", {})["activeTargets"]
        return found

    def _ask(self, path: str, question: Mapping[str, str]) -> Any:  # Any: JSON
        answer = httpx2.get(
            f"http://{self.host}:{self.port}{path}", params=dict(question), timeout=ANSWER_TIMEOUT_S
        )
        document = answer.json()
        if document["status"] != "success":
            raise RuntimeError(f"{question}: {document['error']}")
        return document["data"]

    def _create(self) -> None:
        """Prometheus makes its own files."""

    def _command(self) -> Sequence[str | Path]:
        return [
            programs.prometheus(),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._data}",
            f"--web.listen-address={self.host}:{self.port}",
            "--log.level=warn",
        ]

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _is_ready(self) -> bool:
        try:
            # Our process and no other: whoever holds our port would be ready as well.
            return bool(self._ask("/api/v1/status/flags", {})["storage.tsdb.path"] == str(self._data))
        except (httpx2.HTTPError, ValueError):
            return False
