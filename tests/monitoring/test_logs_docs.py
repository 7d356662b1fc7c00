"""`docs/logs.md` and the source name the same events; and a server logs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.monitoring.log_events import LogEvent, log_events
from tests.node import Node, a_key, a_route, path_of

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
_ROW = re.compile(r"^\| `(\w+)` \| ([a-z, ]+) \| (.*?) ?\| (.+) \|$", re.MULTILINE)
_COMMON = {
    name
    for names in re.findall(r"^\| (`[`\w, ]+`) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    for name in re.findall(r"\w+", names)
}


def documented() -> dict[str, LogEvent]:
    """Return the events of the page."""
    rows = _ROW.findall(PAGE.read_text())
    assert len({name for name, *_ in rows}) == len(rows)
    return {
        name: LogEvent(set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields)))
        for name, levels, fields, _ in rows
    }


def test_every_event_has_its_row_with_its_levels_and_fields() -> None:
    expected = {name: LogEvent(event.levels, event.fields - _COMMON) for name, event in log_events().items()}
    assert documented() == expected


def test_what_cannot_be_read_from_the_source_is_no_event(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("def f():\n    log.info(f'route {1}')\n")
    with pytest.raises(AssertionError, match="nobody can read"):
        log_events(tmp_path)


def test_every_line_of_a_server_is_as_documented_and_lanes_write_theirs(tmp_path: Path) -> None:
    with Node(tmp_path, {"LOG_LEVEL": "DEBUG", "API_ACCESS_LOG": "true"}) as node:
        node.start()
        with node.client() as client:
            client.put(path_of(a_key()), json={"url": a_route()["url"]})
            client.get("/api/v1/routes/resolve", params=a_key())
            client.get("/api/v1/routes")
        assert node.stop() == 0
        lines = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    page = documented()
    ours = [line for line in lines if line["logger"].startswith("traffic_manager")]
    assert {"listening", "ready", "draining"} <= {line["event"] for line in ours}
    strange = [line for line in ours if line.keys() - _COMMON - page[line["event"]].fields]
    assert strange == []
    answered = [line for line in ours if line["event"] == "request_answered"]
    told = [(line["method"], line["path"], line["status"], line["level"]) for line in answered]
    assert [line for line in told if "health" not in line[1]] == [
        ("PUT", path_of(a_key()), 201, "info"),
        ("GET", "/api/v1/routes/resolve", 200, "info"),
        ("GET", "/api/v1/routes", 200, "info"),
    ]
    assert all(line["correlation_id"] and line["seconds"] > 0 for line in answered)
