"""The description of the API as a part of the site: its document, a page to try it in, and a list of its calls."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files as resources
from typing import Any

from fastapi import FastAPI

from traffic_manager import __version__
from traffic_manager.api import app

MARKER = "<!-- every call -->"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Traffic Manager API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="swagger-ui.css"><link rel="icon" href="favicon-32x32.png"></head>
<body><div id="swagger-ui"></div><script src="swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({spec: %s, dom_id: "#swagger-ui", supportedSubmitMethods: []})</script></body></html>
"""
_ASSETS = (
    "swagger-ui-bundle.js",
    "swagger-ui.css",
    "swagger-ui.LICENSE",
    "swagger-ui.NOTICE",
    "favicon-32x32.png",
)


@cache
def document() -> dict[str, Any]:  # Any: a JSON document
    """Return the OpenAPI document, as a server gives it."""
    api = FastAPI(title="Traffic Manager", version=__version__, description=app.DESCRIPTION)
    for router in app.ROUTERS:
        api.include_router(router)
    return app.describe(api)


def files() -> dict[str, str | bytes]:
    """Return the files below `openapi/`, by name: the document, and the page that shows it."""
    text = json.dumps(document())
    static = resources("traffic_manager.api") / "static"
    found: dict[str, str | bytes] = {f"openapi/{name}": (static / name).read_bytes() for name in _ASSETS}
    return found | {"openapi/openapi.json": text, "openapi/browse.html": _PAGE % text.replace("</", "<\\/")}


def _told(call: dict[str, Any]) -> str:  # Any: a JSON document
    """Return the first sentence of what is said of a call."""
    return re.split(r"(?<=\.)\s", call.get("description", call["summary"]), maxsplit=1)[0].replace("\n", " ")


def calls() -> str:
    """Return a table of all calls, in Markdown."""
    rows = [
        f"| `{method.upper()} {path}` | {_told(call)} | {', '.join(sorted(call['responses']))} |"
        for path, methods in document()["paths"].items()
        for method, call in methods.items()
    ]
    return "\n".join(["| call | what it does | statuses |", "|---|---|---|", *rows])
