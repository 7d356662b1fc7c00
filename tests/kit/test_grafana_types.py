"""The dashboards are what Grafana's own types say of dashboards, and of the options of each kind of panel.

Grafana itself cannot be had from a registry of packages; its types can.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.tools import tool
from tests.monitoring.observability import dashboard_files

pytestmark = [pytest.mark.kit, pytest.mark.timeout(300)]
KINDS = {
    "timeseries": "TimeSeries",
    "stat": "Stat",
    "bargauge": "BarGauge",
    "state-timeline": "StateTimeline",
}
# A constant of an enum is written as its value in JSON.
PLAIN = """\
type Plain<T> = T extends string ? `${T}` : T extends number ? number : T extends (infer U)[] ? Plain<U>[]
    : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""
OPTIONS = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler"]


def _program(dashboards: list[Any]) -> str:
    """Return TypeScript that is right if *dashboards* are."""
    imports = ['import type { Dashboard } from "@grafana/schema";']
    imports += [
        f'import type * as {name} from "@grafana/schema/dist/esm/raw/composable/{kind.replace("-", "")}'
        f'/panelcfg/x/{name}PanelCfg_types.gen";'
        for kind, name in KINDS.items()
    ]
    constants = [line for document in dashboards for line in _constants(document)]
    numbered = [f"export const c{number}: {line};" for number, line in enumerate(constants)]
    return "\n".join([*imports, PLAIN, *numbered, ""])


def _constants(document: Any) -> Iterator[str]:
    yield f"Plain<Dashboard> = {json.dumps(document)}"
    for panel in document["panels"]:
        name = KINDS[panel["type"]]
        yield f"Plain<{name}.Options> = {json.dumps(panel['options'])}"
        if custom := panel["fieldConfig"]["defaults"].get("custom"):
            yield f"Plain<{name}.FieldConfig> = {json.dumps(custom)}"


def _complaints(folder: Path, dashboards: list[Any]) -> str:
    tsc = tool("tsc")
    (folder / "node_modules").symlink_to(tsc.parent.parent / "node_modules")
    (folder / "dashboards.ts").write_text(_program(dashboards))
    done = subprocess.run(
        [tsc, *OPTIONS, "dashboards.ts"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_dashboards_have_the_form_that_grafana_reads(tmp_path: Path) -> None:
    assert _complaints(tmp_path, [json.loads(path.read_text()) for path in dashboard_files()]) == ""


def test_another_form_is_noticed(tmp_path: Path) -> None:
    document = json.loads(dashboard_files()[0].read_text())
    document["panels"][0]["options"]["legend"]["placement"] = "middle"
    assert '"middle"' in _complaints(tmp_path, [document])
