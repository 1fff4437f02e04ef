"""Links between the README and other pages, as GitHub follows them: files of the repository and anchors of headings."""

import re

import pytest

from tests.readme import PAGES, ROOT

MORE = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md", "examples/ci/README.md")
ALL_PAGES = PAGES | {page: (ROOT / page).read_text(encoding="utf-8") for page in MORE}
LINK = re.compile(r"\]\(([^)#\s:]*)(#[^)]*)?\)")
BLOCK = re.compile(r"```.*?```", re.DOTALL)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_link_leads_somewhere(page):
    """Each relative link names a file, and each anchor a heading of its page."""
    here = ROOT / page
    for path, anchor in LINK.findall(BLOCK.sub("", ALL_PAGES[page])):
        target = here.parent / path if path else here
        assert target.is_file(), path
        assert not anchor or anchor[1:] in anchors(target), f"{path}{anchor}"


def anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors_are_those_of_github():
    """Words in lower case with dashes, without punctuation."""
    assert "torchrun-restarts-and-the-workers-cannot-connect" in anchors(ROOT / "docs/memory.md")
    assert "no-such-heading" not in anchors(ROOT / "docs/memory.md")
