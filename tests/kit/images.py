"""Images without a container engine: buildah builds them, over a base that mmdebstrap makes of Debian's packages.

The base stands in for `python:3.11-slim-bookworm`: the same Debian and the same Python, only at `/usr/bin`.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.kit.tools import CACHE, tool
from tests.servers.install import locked
from tests.servers.programs import ROOT

BASE = "docker.io/library/python:3.11-slim-bookworm"
IMAGE = "localhost/traffic-manager:local"
# What a machine may need to reach its package registry; the image itself knows nothing of it.
NETWORK_FILES = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")


@functools.cache
def built_image() -> str:
    """Build the image from this tree's Dockerfile, over the base, once, and return its name."""
    with locked(CACHE / "image.lock"):
        _make_base()
        seen = [f"--volume={path}:{path}:ro" for path in NETWORK_FILES if Path(path).exists()]
        buildah("bud", "--format=docker", "--pull-never", "--network=host", *seen, "--tag", IMAGE, str(ROOT))
    return IMAGE


def mounted(image: str) -> Path:
    """Return the root file system of *image*. Whoever uses it puts a layer of their own over it."""
    container = buildah("from", "--pull-never", image)
    return Path(buildah("mount", container))


def configuration(image: str) -> Any:  # Any: Docker's own document
    """Return what Docker would know of *image*."""
    return json.loads(buildah("inspect", "--type=image", image))["Docker"]["config"]


def megabytes_of(image: str) -> float:
    """Return how much room the files of *image* take, those of its base included."""
    (told,) = json.loads(buildah("images", "--json", image))
    number, unit = told["size"].split()
    assert unit == "MB"
    return float(number)


def remove_containers() -> None:
    """Remove what `mounted` has made."""
    buildah("rm", "--all")


def buildah(*arguments: str) -> str:
    """Return what buildah says in the end: its last line, or a document. Fails the test if it fails."""
    store = [
        "--storage-driver=vfs",
        f"--root={CACHE / 'images'}",
        f"--runroot={CACHE / 'images-run'}",
    ]
    done = subprocess.run(
        [str(tool("buildah")), *store, *arguments],
        env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    is_document = {"--json", "--type=image"} & {*arguments}
    return done.stdout if is_document else (done.stdout.strip().splitlines() or [""])[-1]


def _make_base() -> None:
    if buildah("images", "--quiet", "--filter", f"reference={BASE}"):
        return
    folder = CACHE / "base"
    folder.mkdir(parents=True, exist_ok=True)
    packages = "--include=python3,python3-venv,ca-certificates"
    archive = str(folder / "base.tar")
    subprocess.run(
        [str(tool("mmdebstrap")), "--quiet", "--variant=minbase", packages, "bookworm", archive], check=True
    )
    (folder / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
    buildah("bud", "--tag", BASE, str(folder))
    (folder / "base.tar").unlink()
