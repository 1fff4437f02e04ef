"""The site of `docs/`: built strictly, without requests to elsewhere, and accessible."""

import os
import re
import subprocess
import sys
from importlib import resources
from importlib.util import find_spec

import pytest

from tests.readme import ROOT
from tests.test_report_page import BROWSER, DRIVER, PHONE, browser, show

__all__ = ["browser"]  # a fixture

SAMPLE = ["index", "train/index", "diagnose/index", "diagnose/shifted_alignment/index", "reference/commands/index"]
SAMPLE += ["reference/python/index"]
MOST_PARTS = 15  # of a page, such as paragraphs and tables

pytestmark = pytest.mark.skipif(
    find_spec("material") is None and "CI" not in os.environ, reason="needs the extra docs: mkdocs-material"
)
needs_browser = pytest.mark.skipif(
    (BROWSER is None or DRIVER is None) and "CI" not in os.environ, reason="needs chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site. A broken link, a missing anchor or a page outside of the navigation ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_fetches_nothing_from_elsewhere(site):
    """Fonts, styles and scripts of each page are files of the site."""
    fetched = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"(?:https?:)?//|<link[^>]*href=\"(?:https?:)?//")
    pages = [path for path in site.rglob("*.html") if fetched.search(path.read_text(encoding="utf-8"))]
    assert pages == []
    assert len(list(site.rglob("*.html"))) > 60


def test_examples_of_docstrings_are_code(site):
    """The reference shows `>>>` as code, not as quotations in quotations."""
    page = (site / "reference/python/index.html").read_text(encoding="utf-8")
    assert "&gt;&gt;&gt;" in page
    assert "<blockquote>" not in page


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", SAMPLE)
def test_axe_finds_nothing_serious(browser, site, page, scheme):
    """Axe finds no serious problem of contrast, names, roles, headings or tables at the beginning of a page.

    Of a reference the beginning is enough: axe takes minutes for all of it.
    """
    open_page(browser, site, page, scheme=scheme)
    rest = f"article > :nth-child(n+{MOST_PARTS})"
    browser.execute_script("document.querySelectorAll(arguments[0]).forEach(part => part.remove())", rest)
    dark = browser.execute_script("return document.body.getAttribute('data-md-color-scheme')")
    assert dark == {"light": "default", "dark": "slate"}[scheme]
    browser.execute_script(resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    serious = [
        (item["id"], item["nodes"][0]["html"][:200], len(item["nodes"]))
        for item in found["violations"]
        if item["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 10


@needs_browser
@pytest.mark.parametrize("page", SAMPLE)
def test_a_phone_needs_no_scrolling_sideways(browser, site, page):
    """Wide tables and code scroll by themselves on a narrow screen."""
    open_page(browser, site, page, width=PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


def open_page(browser, site, page, **settings):
    """Open a page as on a first visit, because the site remembers the scheme of the page before."""
    path = site / f"{page}.html"
    show(browser, path, **settings)
    browser.execute_script("localStorage.clear()")
    show(browser, path, **settings)
