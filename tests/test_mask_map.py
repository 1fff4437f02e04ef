"""The slots of a sample, drawn: whole outputs, and what no run can be read from."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks import render
from sinks.rendering.mask_map import SIGNS, render_mask_map
from sinks.terminal.style import BOLD, RED, RESET
from tests.builders import diagnosis, record_of

SAMPLE = {
    "text": "57p 1# 72_ 2#",
    "codebook 0": "58- 1B 70# 1E 1e 1-",
    "codebook 1": "58- 1B 1d 69# 1? 1E 1-",
}


def drawn(strips, *, color=False, width=None):
    """Draw a sample."""
    return render_mask_map(strips, color=color, width=width)


def test_a_sample():
    """Long runs of equal columns are three columns wide, in every row, and the ruler says where runs begin."""
    assert drawn(SAMPLE) == [
        "  position    0  57 60 129",
        "  text        p.p#___.__##",
        "  codebook 0  -.--B##.#Ee-",
        "  codebook 1  -.--Bd#.#?E-",
        "  p prompt  _ placeholder  # supervised  E supervised stop  B stream BOS",
        "    d delay prefix  e EOS fill  - no slot  ? masked, should be supervised",
        "    . more of the same",
    ]


def test_a_narrow_terminal():
    """What is too wide goes on in another block; a block in which no run begins has no ruler."""
    assert drawn(SAMPLE, width=24)[:7] == [
        "  position    0  57 60",
        "  text        p.p#___.__",
        "  codebook 0  -.--B##.#E",
        "  codebook 1  -.--Bd#.#?",
        "  text        ##",
        "  codebook 0  e-",
        "  codebook 1  E-",
    ]


def test_what_changes_all_the_time():
    """After four blocks it is enough."""
    lines = drawn({"text": " ".join(["1p 2#"] * 200)}, width=40)
    assert lines[:2] == ["  position  0  3  6  9  12 15 18 21 24", "  text      p##p##p##p##p##p##p##p##p##p"]
    assert lines[8:] == ["  and 488 more columns", "  p prompt  # supervised"]


def test_color():
    """Supervised slots are bold, and what is not as it is to be is red."""
    assert drawn({"text": "2p 1# 1E 2!"}, color=True) == [
        "  position  0 2 4",
        f"  text      pp{BOLD}#E{RESET}{RED}!!{RESET}",
        "  p prompt  # supervised  E supervised stop  ! supervised, should be masked",
    ]


def test_rows_of_unequal_length():
    """A row that is shorter ends before the others."""
    assert drawn({"text": "2p", "codebook 0": "4#"})[1:3] == ["  text        pp", "  codebook 0  ####"]


def test_runs_that_go_on_are_one():
    """However a run is written, it is drawn as one."""
    assert drawn({"text": "4p 4p"}) == drawn({"text": "8p"})


@pytest.mark.parametrize(
    "strips",
    [
        *(None, {}, [], "57p", {"text": 3}, {"text": ""}, {"text": "p57"}, {"text": "0p"}, {"text": "5p  5p"}),
        *({"text": "9999999999p"}, {"text": "5\x1b"}, {"x" * 21: "5p"}, {"text": "5p", "codebook 0": None}),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_not_drawn(strips):
    """Nothing is raised; the message of the note stands alone."""
    assert drawn(strips) == []
    note = diagnosis(severity="note", code="mask_audit", evidence={"strip": strips, "sample": "en-1"})
    assert render(record_of(note)) == "note (mask_audit): No stop token is supervised."


def test_below_the_note():
    """The sample's name, then the drawing."""
    note = diagnosis(
        severity="note", code="mask_audit", modality="text", evidence={"sample": "en-1", "strip": {"text": "2p 1#"}}
    )
    assert render(record_of(note)).split("\n") == [
        "note (mask_audit): No stop token is supervised.",
        "  Sample en-1:",
        "  position  0 2",
        "  text      pp#",
        "  p prompt  # supervised",
    ]


RUNS = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(sorted(SIGNS))), min_size=1, max_size=8)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(RUNS, min_size=1, max_size=3))
def test_every_change_is_seen(rows):
    """Against slot-by-slot drawing: without the columns that runs repeat, both show the same columns in order."""
    strips = {f"row {index}": " ".join(f"{n}{sign}" for n, sign in row) for index, row in enumerate(rows)}
    slots = ["".join(sign * n for n, sign in row) for row in rows]
    length = max(map(len, slots))
    whole = list(zip(*(row.ljust(length) for row in slots), strict=True))
    lines = [line for line in drawn(strips, width=1000) if line.startswith("  row ")]
    shown = [line.removeprefix(f"  row {index}").removeprefix("     ") for index, line in enumerate(lines)]
    width = max(map(len, shown))
    columns = list(zip(*(row.ljust(width) for row in shown), strict=True))

    def changes(columns):
        kept = [column for column in columns if set(column) != {"."}]
        return [column for index, column in enumerate(kept) if index == 0 or column != kept[index - 1]]

    assert changes(columns) == changes(whole)
