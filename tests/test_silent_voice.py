"""The README's story of a voice that is silence, as printed."""

import re

from tests.readme import commands, section, shell

STORY = "What the log finds by itself"


def test_the_story_of_the_silent_voice(tmp_path, here):
    """The demo with its mistake prints what the text shows, but for times, and the log says the same afterwards."""
    train, diagnose = commands(section(STORY))
    printed = [without_times(line) for line in here(train, tmp_path).splitlines()]
    excerpt = re.search(r"```text\n(.*?)```", section(STORY), re.DOTALL)[1]
    for line in excerpt.splitlines():
        assert line == "..." or without_times(line) in printed
    said = shell(diagnose, tmp_path)
    assert said.endswith("2 errors, 2 notes in 4 logged steps\nstatus 1\n")
    assert "found at 4 of 4 logged steps: in all 8 codebooks" in said


def without_times(line):
    """Leave out how long a step took, and the last digits, which another processor rounds otherwise."""
    return re.sub(r"\d+ ms$", "", re.sub(r"(\d\.\d)\d+", r"\1", line))
