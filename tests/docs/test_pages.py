"""Pages are found: every link and anchor leads somewhere, and every page is in the site's table of contents."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"])
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
# What the site alone has: made while it is built.
_MADE = {"docs/openapi/browse.html", "docs/openapi/openapi.json"}


def _prose(page: Path) -> str:
    return re.sub(r"^( *)```.*?^\1``` *$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Return what the headings of a page are called, as GitHub does."""
    found: Counter[str] = Counter()
    anchors = set()
    for heading in re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE):
        name = re.sub(r"[^\w -]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(
            " ", "-"
        )
        anchors.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(_prose(page)):
        there = (page.parent / target).resolve() if target else page
        assert there.exists() or str(there.relative_to(ROOT)) in _MADE, target
        assert not anchor or anchor in _anchors(there), (target, anchor)


def test_every_page_is_in_the_table_of_contents() -> None:
    """A page that is not there goes into `nav` of mkdocs.yml; decisions are in their own list."""
    listed = set(re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    decisions = {page for page in written if page.startswith("adr/0")}
    assert listed - written == set(_links().TAKEN_IN.values())
    assert written - listed == decisions


def test_start_page_leads_to_every_page() -> None:
    linked = {target for target, _ in _LINK.findall((DOCS / "index.md").read_text())}
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    assert {page for page in written if not page.startswith("adr/0")} - linked == set()


def test_every_decision_is_in_the_list_of_decisions() -> None:
    listed = set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (DOCS / "adr" / "README.md").read_text()))
    assert listed == {path.name for path in (DOCS / "adr").glob("0*.md")}


def _links() -> ModuleType:
    """Return the module of the site that knows where links lead."""
    if "site_links" not in sys.modules:
        specification = importlib.util.spec_from_file_location("site_links", DOCS / "site" / "links.py")
        assert specification is not None
        assert specification.loader is not None
        sys.modules["site_links"] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(sys.modules["site_links"])
    return sys.modules["site_links"]


@pytest.mark.parametrize(
    ("page", "written", "on_the_site"),
    [
        ("index.md", "[b](../benchmarks/README.md)", "[b](benchmarks.md)"),
        ("how-to/x.md", "[a](../adr/README.md#d)", "[a](../adr/README.md#d)"),
        (
            "readme.md",
            "[a](docs/architecture.md), [b](benchmarks)",
            "[a](architecture.md), [b](benchmarks.md)",
        ),
        ("benchmarks.md", "![c](charts/latency.svg)", "![c](benchmarks/charts/latency.svg)"),
        ("readme.md", "[e](.env.example)", "[e](env.example)"),
        ("index.md", "all in [`src`](../src), as", "all in `src`, as"),
        ("openapi.md", "[b](openapi/browse.html)", "[b](openapi/browse.html)"),
        ("index.md", "[w](https://example.com/a.md), `x`", "[w](https://example.com/a.md), `x`"),
        ("index.md", "```\n[b](../README.md)\n```\n", "```\n[b](../README.md)\n```\n"),
    ],
)
def test_links_lead_to_the_same_on_the_site(page: str, written: str, on_the_site: str) -> None:
    assert _links().on_the_site(page, written) == on_the_site
