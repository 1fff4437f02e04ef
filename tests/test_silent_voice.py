"""The story of a silent voice in `docs/diagnose/index.md`, with the output that the commands print."""

import re

from tests.readme import PAGES, commands, shell

STORY = PAGES["docs/diagnose/index.md"]
#: A decimal number or a count, with the sign and the unit that follow.
NUMBER = re.compile(r"(?<![\w.,])[+-]?\d[\d,]*(?:\.\d+)?(?![\w,.]*\d)")
TIME = re.compile(r"  [\d.]+ s  [\d.]+ clips/s(  ETA [\d:]+)?")


def test_the_story_of_the_silent_voice(tmp_path, here):
    """The demo with its mistake prints the page's lines, up to times and rounding, and `diagnose` agrees later."""
    train, diagnose = commands(STORY)
    printed = here(train, tmp_path).splitlines()
    excerpt = re.search(r"```text\n(.*?)```", STORY, re.DOTALL)[1]
    for line in excerpt.splitlines():
        assert line == "..." or any(agree(line, other) for other in printed), line
    report = shell(diagnose, tmp_path)
    assert report.endswith("2 errors, 2 notes in 4 logged steps\nstatus 1\n")
    assert "found at 4 of 4 logged steps: in all 8 codebooks" in report


def agree(expected, got):
    """Return True if two lines differ in times, and in numbers by what another processor may compute.

    The text between the numbers must be equal. Numbers with decimals may differ by 2 % or a last digit, and
    percentages by half a point.
    """
    expected, got = TIME.sub("", expected), TIME.sub("", got)
    if NUMBER.sub("", expected) != NUMBER.sub("", got):
        return False
    return all(map(close, NUMBER.finditer(expected), NUMBER.finditer(got)))


def close(expected, got):
    """Return True if the numbers of two matches are equal, or close where they have decimals."""
    if "." not in expected[0]:
        return expected[0] == got[0]  # counts, steps and positions are exact
    first, second = (float(match[0].replace(",", "")) for match in (expected, got))
    last_digit = 10.0 ** -len(expected[0].partition(".")[2])
    is_percentage = expected.string[expected.end() :].lstrip().startswith("%")
    return abs(first - second) <= (0.5 if is_percentage else max(0.02 * abs(first), 1.01 * last_digit))


def test_lines_agree_only_in_their_text_and_nearly_in_their_numbers():
    """A digit of rounding passes, and another text, count or figure does not."""
    line = "step 60/60  0.36 s  22.3 clips/s  ETA 0:16  loss 3.270  audio 3.268  correct  audio 75.4 %"
    other = line.replace("0.36 s  22.3 clips/s  ETA 0:16", "1.2 s  7 clips/s")
    assert agree(line, other.replace("75.4 %", "75.7 %").replace("3.270", "3.271"))
    for change in (
        ("75.4 %", "76.1 %"),
        ("3.270", "3.350"),
        ("step 60/", "step 61/"),
        ("correct", "right"),
        (" 0.36 s", "x"),
    ):
        assert not agree(line, line.replace(*change)), change
    assert not agree("  codebook 0  -.--B##", "  codebook 0  -.--B#E")
