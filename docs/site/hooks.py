"""What MkDocs calls while it builds the site: what comes from elsewhere in the repository, links, drawings, calls."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import links
import openapi

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_DRAWING = re.compile(r'<p><img alt="([^"]*)" src="[^"]*diagrams/([\w-]+)\.svg" ?/?></p>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in `docs/`: pages, the files that pages link to, and the description of the API."""
    for place, page in links.TAKEN_IN.items():
        if (links.ROOT / place).exists():
            files.append(File.generated(config, page, content=(links.ROOT / place).read_text()))
    for written in files.documentation_pages():
        for place in links.targets(written.src_uri, written.content_string):
            _add(files, config, place)
    for name, content in openapi.files().items():
        files.append(File.generated(config, name, content=content))
    return files


def _add(files: Files, config: MkDocsConfig, place: str) -> None:
    address = links.address_of(place)
    if address and not place.startswith("docs/") and files.get_file_from_path(address) is None:
        files.append(File.generated(config, address, abs_src_path=str(links.ROOT / place)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with links as the site needs them, and the calls of the API where it asks for them."""
    text = links.on_the_site(page.file.src_uri, markdown)
    return text.replace(openapi.MARKER, openapi.calls()) if openapi.MARKER in text else text


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with drawings as part of it: so they follow its light or dark."""
    return _DRAWING.sub(lambda match: _drawn(match[1], match[2]), html)


def _drawn(alternative: str, name: str) -> str:
    picture = (links.ROOT / "docs" / "diagrams" / f"{name}.svg").read_text()
    return f'<figure class="diagram" role="img" aria-label="{alternative}">{picture}</figure>'
