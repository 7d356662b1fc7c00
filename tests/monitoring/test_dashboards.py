"""The dashboards of `deploy/grafana`: whole, laid out without gaps or overlaps, and every metric is on one."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from html import unescape
from pathlib import Path

import pytest
import yaml

from tests.monitoring.observability import (
    DASHBOARDS,
    OURS,
    ROOT,
    Panel,
    dashboard_files,
    is_known,
    metrics_in,
    panels,
)

SELECTION = 'namespace=~"$namespace", job=~"$job", instance=~"$node"'
PANELS = pytest.mark.parametrize(
    "panel", panels(), ids=[f"{panel.dashboard}-{panel.title}" for panel in panels()]
)
PROVISIONING = DASHBOARDS.parent / "provisioning"


def test_the_dashboards_are_these() -> None:
    assert [path.stem for path in dashboard_files()] == [
        "database",
        "events",
        "nodes",
        "overview",
        "routes",
        "security",
    ]


@pytest.mark.parametrize("path", dashboard_files(), ids=lambda path: path.stem)
def test_dashboard_is_found_by_its_name_and_lets_one_choose_source_and_nodes(path: Path) -> None:
    document = json.loads(path.read_text())
    chosen = [variable["name"] for variable in document["templating"]["list"]]
    assert (document["uid"], chosen) == (
        f"traffic-manager-{path.stem}",
        ["datasource", "namespace", "job", "node"],
    )
    assert [panel["id"] for panel in document["panels"]] == list(range(1, len(document["panels"]) + 1))


@PANELS
def test_panel_says_what_it_shows_and_asks_the_chosen_source(panel: Panel) -> None:
    assert panel.description.endswith(".")
    sources = [panel.document["datasource"], *(target["datasource"] for target in panel.document["targets"])]
    assert sources == [{"type": "prometheus", "uid": "${datasource}"}] * len(sources)


@PANELS
def test_panel_asks_for_metrics_that_there_are_on_the_chosen_nodes(panel: Panel) -> None:
    for question in panel.questions.values():
        assert [metric for metric in metrics_in(question) if not is_known(metric)] == []
        selectors = re.findall(r"(\w[\w:]*)(\{[^}]*\})", question)
        assert [name for name, chosen in selectors if not _is_narrowed(name, chosen)] == []
        assert "[5m]" not in question


def _is_narrowed(name: str, chosen: str) -> bool:
    """What rules record of a whole installation has no node, and alerts are for all."""
    wanted = SELECTION.rpartition(",")[0] if name.startswith("tm:slo") else SELECTION
    return wanted in chosen or name == "ALERTS"


def test_titles_are_there_once_on_each_dashboard() -> None:
    titles = Counter((panel.dashboard, panel.title) for panel in panels())
    assert [title for title, count in titles.items() if count > 1] == []


@pytest.mark.parametrize("path", dashboard_files(), ids=lambda path: path.stem)
def test_no_panel_lies_on_another_or_beside_the_page(path: Path) -> None:
    places = [panel.place for panel in panels() if panel.dashboard == path.stem]
    assert all(left + width <= 24 for left, _, width, _ in places)
    assert [pair for pair in itertools.combinations(places, 2) if _overlap(*pair)] == []


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one, other
    return x1 < x2 + w2 and x2 < x1 + w1 and y1 < y2 + h2 and y2 < y1 + h1


def test_every_metric_is_on_a_dashboard() -> None:
    shown = {metric for panel in panels() for q in panel.questions.values() for metric in metrics_in(q)}
    assert set(OURS) - shown == set()


def test_provisioned_source_is_the_prometheus_of_our_scrape_interval() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    config = yaml.safe_load((DASHBOARDS.parents[1] / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


@pytest.mark.parametrize("path", dashboard_files(), ids=lambda path: path.stem)
def test_dashboard_has_its_picture_in_the_guide(path: Path) -> None:
    """`python -m tests.kit.previews` draws them."""
    picture = ROOT / "docs" / "dashboards" / f"{path.stem}.svg"
    assert f"(dashboards/{picture.name})" in (ROOT / "docs" / "monitoring.md").read_text()
    drawn = unescape(picture.read_text())
    assert [
        panel.title for panel in panels() if panel.dashboard == path.stem and panel.title not in drawn
    ] == []
