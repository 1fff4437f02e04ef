"""Hook of mkdocs: put the files of the repository that pages link to into the site, and point the links there.

GitHub shows the pages of `docs/` with links such as `../examples/csv_sink.py`. The site has only `docs/`, so such a
file becomes `repository/examples/csv_sink.py` of the site.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each file outside of `docs/` that a page links to, and the files that an added page links to."""
    pages = [Path(str(file.abs_src_path)) for file in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for target in _targets(page):
            uri = _uri_of(target)
            if target.is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(target)))
                if target.suffix == ".md":
                    pages.append(target)
    return files


def on_page_markdown(markdown: str, /, *, page: Page, **_: Any) -> str:
    """Point the links of a page to the places of their files in the site. A broken link stays for mkdocs to report."""
    source = Path(str(page.file.abs_src_path))

    def moved(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / link["path"]))
        if not target.is_file():
            return link[0]
        place = os.path.relpath(_uri_of(target), Path(page.file.src_uri).parent)
        return place + (link["anchor"] or "")

    return LINK.sub(moved, markdown)


def _targets(page: Path) -> Iterator[Path]:
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        yield Path(os.path.normpath(page.parent / link["path"]))


def _uri_of(path: Path) -> str:
    """Return the place of a file of the repository in the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"repository/{path.relative_to(ROOT).as_posix()}" if path.is_relative_to(ROOT) else str(path)
