"""The documentation as a site: built as a reader of the repository does, it needs no network and loses nothing."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
_COUNTED = ("li", "tr", "pre", "h2", "h3", "ol", "ul")
# What a browser would fetch from elsewhere as soon as it shows a page.
_FETCHED = re.compile(
    r'(?:<(?:script|img|iframe)[^>]+src=|<link[^>]+href=)"(?:https?:)?//|@import|url\(["\']?https?:'
)

pytestmark = [pytest.mark.kit, pytest.mark.timeout(600)]  # the first build installs what it needs


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, which is not built if a link or an anchor leads nowhere."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        ["make", "docs", f"SITE={folder}"], cwd=ROOT, capture_output=True, text=True, timeout=550, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Article(HTMLParser):
    """Counts the elements of the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_inside |= tag == "article"
        if self._is_inside and tag in _COUNTED:
            self.found[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._is_inside &= tag != "article"


def _counted(html: str) -> Counter[str]:
    parser = _Article()
    parser.feed(html)
    return parser.found


@pytest.mark.parametrize("page", [page for page in WRITTEN if page != "openapi.md"])
def test_page_has_all_that_is_written(site: Path, page: str) -> None:
    """The site's Markdown is another than that of code hosts: a list or table may be read as plain text."""
    written = MarkdownIt("commonmark").enable("table").render((DOCS / page).read_text())
    built = (site / page.replace("README", "index")).with_suffix(".html").read_text()
    assert _counted(built) == _counted(f"<article>{written}</article>")


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    found = {
        (path.name, match[0])
        for kind in ("*.html", "*.css", "*.svg")
        for path in site.rglob(kind)
        for match in _FETCHED.finditer(path.read_text())
    }
    assert found == set()


def test_drawings_are_part_of_their_pages(site: Path) -> None:
    built = "".join(path.read_text() for path in site.rglob("*.html"))
    drawings = {path.stem for path in (DOCS / "diagrams").glob("*.svg")} - {"mark"}
    assert drawings
    assert [name for name in drawings if f'id="{name}-' not in built] == []


def test_every_call_is_listed(site: Path) -> None:
    listed = (site / "openapi.html").read_text()
    assert "<code>GET /api/v1/routes/resolve</code>" in listed
    assert "openapi/browse.html" in listed
    assert "SwaggerUIBundle(" in (site / "openapi" / "browse.html").read_text()
