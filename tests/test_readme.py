"""The README: short, with an excerpt that the demo prints, and the same commands as the pages."""

import re
import struct

from tests.readme import PAGES, README, ROOT, commands, section
from tests.test_silent_voice import agree

MOST_WORDS = 1_000  # five minutes at 200 words a minute
LARGEST_PICTURE = 200_000  # bytes


def test_the_readme_is_read_in_five_minutes():
    """The README has at most 1,000 words, as `wc -w` counts."""
    assert len(README.split()) <= MOST_WORDS


def test_the_quick_start_has_two_commands():
    """One for the demo, one for the tests."""
    assert commands(section("README.md", "Quick start")) == [
        "pip install -e . && higgs-audio-trainer demo",
        "pip install -e '.[dev]' && pytest",
    ]


def test_every_command_stands_on_a_page_too():
    """A reader of the site finds each command of the README, and `tests/test_pages.py` runs each."""
    pages = {command for page, text in PAGES.items() if page != "README.md" for command in commands(text)}
    assert set(commands(README)) <= pages


def test_the_excerpt_is_the_demos(demo):
    """The demo prints each line of the excerpt, in this order, up to times and rounding."""
    _, done = demo
    excerpt = re.search(r"```text\n(.*?)```", README, re.DOTALL)[1]
    printed = iter(done.stdout.splitlines())
    for line in excerpt.splitlines():
        assert line == "..." or any(agree(line, other) for other in printed), line


def test_the_picture_is_small_enough_for_a_phone():
    """The picture of the report is a PNG of at most 200 kB, 1,280 pixels wide."""
    picture = (ROOT / "docs/assets/report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">I", picture[16:20]) == (1280,)
    assert len(picture) <= LARGEST_PICTURE
