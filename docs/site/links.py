"""Where a link leads on the site: pages link to each other, and to files, by their places in the repository.

`hooks` asks for it. The pages of the site are those of `docs/` and the repository's own in `TAKEN_IN`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Pages that lie elsewhere in the repository, and where they are on the site.
TAKEN_IN = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "benchmarks/README.md": "benchmarks.md",
}
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?\[(?P<text>[^\]]*)\]\()(?!\w+:)(?P<to>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
# What `openapi` makes for the site is in no folder of the repository.
_MADE = "docs/openapi/"


def place_of(page: str) -> str:
    """Return where in the repository the site's *page* is written."""
    return next((place for place, taken in TAKEN_IN.items() if taken == page), f"docs/{page}")


def targets(page: str, text: str) -> Iterator[str]:
    """Yield the places in the repository that the page links to."""
    for prose in _FENCE.split(text):
        for link in _LINK.finditer(prose or ""):
            yield _target(page, link["to"])


def _target(page: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place_of(page)), link))


def on_the_site(page: str, text: str) -> str:
    """Return *text* with every link as the site needs it; what is not on the site is named, not linked."""

    def there(match: re.Match[str]) -> str:
        address = address_of(_target(page, match["to"]))
        if not address:
            return match["text"]
        way = posixpath.relpath(address, posixpath.dirname(page) or ".")
        return f"{match[1]}{way}{match['anchor'] or ''})"

    return _outside_code(text, lambda prose: _LINK.sub(there, prose))


def address_of(place: str) -> str:
    """Return where a file of the repository is on the site; for a folder, its page. Empty if there is none."""
    if (ROOT / place).is_dir():
        place = f"{place}/README.md"
    if place in TAKEN_IN:
        return TAKEN_IN[place]
    if not (ROOT / place).is_file() and not place.startswith(_MADE):
        return ""
    return re.sub(r"(^|/)\.", r"\1", place.removeprefix("docs/"))  # files with a dot are not taken in


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])
