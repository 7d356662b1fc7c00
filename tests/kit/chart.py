"""The chart of `deploy/helm`, rendered by the real Helm."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.kit.tools import tool
from tests.servers.programs import ROOT

CHART = ROOT / "deploy" / "helm"
VALUES = {
    path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))
}
OLDEST, NEWEST = "1.27.0", "1.37.0"
NAME = "tm-traffic-manager"
WITH_A_POD = ("Deployment", "Job", "CronJob")

Manifest = dict[str, Any]  # Any: a document of YAML


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Return what Helm did, in words too."""
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, timeout=60, check=False)


@functools.cache
def text_of(values: str, kubernetes: str = NEWEST) -> str:
    """Return what a set of values is rendered to, as a release `tm` in a namespace of its own."""
    given = ["--kube-version", kubernetes, "--namespace", "routing", "--values", str(VALUES[values])]
    done = helm("template", "tm", CHART, *given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(values: str) -> list[Manifest]:
    """Return the manifests of a set of values."""
    return [manifest for manifest in yaml.safe_load_all(text_of(values)) if manifest]


def kinds(values: str) -> set[str]:
    return {manifest["kind"] for manifest in rendered(values)}


def one(values: str, kind: str) -> Manifest:
    """Return the only manifest of a kind."""
    (found,) = [manifest for manifest in rendered(values) if manifest["kind"] == kind]
    return found


def pod(values: str, kind: str = "Deployment") -> Manifest:
    """Return the Pod that a Deployment, a Job or a CronJob describes."""
    return _pod_of(one(values, kind))


def _pod_of(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    found: Manifest = (spec["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else spec)["template"]
    return found


def container(values: str, kind: str = "Deployment") -> Manifest:
    (found,) = pod(values, kind)["spec"]["containers"]
    return dict(found)


def environment(values: str, kind: str = "Deployment") -> dict[str, str]:
    """Return the variables of a container, all of which have their value here."""
    return {variable["name"]: variable["value"] for variable in container(values, kind)["env"]}


def mounted(values: str, kind: str = "Deployment") -> Mapping[str, tuple[str, str, str]]:
    """Return by path which key of which object is mounted there, as `(kind, name, key)`."""
    mounts = {mount["name"]: mount["mountPath"] for mount in container(values, kind)["volumeMounts"]}
    found = {}
    for volume in pod(values, kind)["spec"]["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            ((where, what),) = source.items()
            for item in what["items"]:
                found[f"{mounts[volume['name']]}/{item['path']}"] = (where, what["name"], item["key"])
    return found


def every_pod() -> Iterator[tuple[str, Manifest]]:
    """Yield the Pods of all sets of values, with what to call them."""
    for values in VALUES:
        for manifest in rendered(values):
            if manifest["kind"] in WITH_A_POD:
                yield f"{values}: {manifest['kind']}", _pod_of(manifest)["spec"]


def refusal(values: str, *sets: str) -> str:
    """Return why Helm does not render a set of values with something else in it."""
    given: Sequence[str] = [part for each in sets for part in ("--set", each)]
    done = helm("template", "tm", CHART, "--kube-version", NEWEST, "--values", VALUES[values], *given)
    assert done.returncode != 0, "it was rendered"
    return done.stderr
