"""Hostile strings on the console, checked by a terminal emulator: the terminal shows data and obeys no data."""

import re
import unicodedata
from itertools import pairwise

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyte.graphics import FG_BG_256  # noqa: F401 - loads the emulator's palette before the first test
from wcwidth import wcwidth

from sinks import render
from sinks.terminal.escape import encodable_text, printable
from tests.builders import all_events, record_of
from tests.faults.hostile import HOSTILE, RIGHT_TO_LEFT, SCRIPTS

COLUMNS, LINES = 2_000, 40
#: Record of an unknown event, rendered field by field.
UNKNOWN = {"event": "unknown", "v": 1, "text": "x", "list": ["x", {"key": "x"}], "mapping": {"key": {"key": "x"}}}


def records():
    """Return a record of each event and an unknown record."""
    return [*map(record_of, all_events()), UNKNOWN]


def poisoned(value, text):
    """Return a copy of a value with `text` in place of each string and at the end of each key except window fields."""
    if isinstance(value, str):
        return text
    if isinstance(value, dict):
        return {f"{key}{text}" if key not in WINDOW else key: poisoned(item, text) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [poisoned(item, text) for item in value]
    return value


WINDOW = frozenset({"positions", "inputs", "labels", "predictions", "predicted_text", "label_text"}) | {
    "codebook",
    "codes",
}


def hostile_record(record, text):
    """Put `text` into every text of a record except the fields that select the renderer."""
    kept = {"event", "modality"}
    copy = {key: value if key in kept else poisoned(value, text) for key, value in record.items()}
    for window in (copy[name] for name in ("first", "last") if isinstance(copy.get(name), dict)):
        window["predicted_text"] = window["label_text"] = text
    marks = {"nonfinite": [text], "replaced": {text: text}, "shortened": {text: 3}, text: text}
    return copy | marks


def terminal():
    """Return a terminal emulator and the emulator's input stream."""
    screen = pyte.Screen(COLUMNS, LINES)
    return screen, pyte.Stream(screen)


def show(stream, text):
    """Feed text as a terminal driver does.

    Characters outside of ASCII are fed separately, as pyte drops characters after a joiner.
    """
    for piece in re.findall(r"[\x20-\x7e]+|[^\x20-\x7e]", text):
        stream.feed("\r\n" if piece == "\n" else piece)


def state(screen):
    """Return all state that an escape sequence can change."""
    return {
        "attributes": screen.cursor.attrs,
        "charset": (screen.charset, screen.g0_charset, screen.g1_charset),
        "column": screen.cursor.x,
        "hidden": screen.cursor.hidden,
        "margins": screen.margins,
        "modes": set(screen.mode),
        "saved": list(screen.savepoints),
        "tab stops": set(screen.tabstops),
        "titles": (screen.title, screen.icon_name),
    }


def cells(line):
    """Return the cells of a line of plain text, computed without an emulator."""
    row = []
    for character in line:
        width = wcwidth(character)
        assert width >= 0, f"a terminal would obey {character!r}"
        if width:
            row += [character, *[""] * (width - 1)]
        elif unicodedata.combining(character):
            at = -1 if row[-1] else -2
            row[at] = unicodedata.normalize("NFC", row[at] + character)
    return row


def rows(text):
    """Return the rows of a text, with wrapped lines."""
    found = []
    for line in text.split("\n"):
        row = cells(line)
        found += [row[at : at + COLUMNS] for at in range(0, max(len(row), 1), COLUMNS)]
    return found


def check_shown(text):
    """Show a text on a fresh terminal, and check that the screen is that of plain text without other changes."""
    screen, stream = terminal()
    before = state(screen)
    show(stream, text + "\n")
    assert state(screen) == before
    expected = rows(text)[-(LINES - 1) :]
    top = screen.cursor.y - len(expected)
    for at, row in enumerate(expected):
        seen = [screen.buffer[top + at][column] for column in range(len(row))]
        assert [cell.data for cell in seen] == row
        assert {cell[1:] for cell in seen} <= {screen.default_char[1:]}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_event_is_obeyed(text):
    """Fault: a string in every text, key and mark of each event attacks the terminal. Expected: the string is shown.

    The emulator's screen equals the screen of the escaped plain text. Title, modes, colours and cursor are untouched. A
    record has as many lines as with harmless text.
    """
    for record in records():
        rendered = render(hostile_record(record, text))
        assert rendered.count("\n") == render(hostile_record(record, "x")).count("\n")
        check_shown(rendered)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_colour_ends_where_it_began(text):
    """Fault: hostile text within the renderer's colours.

    Expected: after the line, the terminal's state is as before.
    """
    screen, stream = terminal()
    before = state(screen)
    for record in records():
        show(stream, render(hostile_record(record, text[:2_000]), color=True) + "\n")
        assert state(screen) == before


@pytest.mark.filterwarnings("ignore:cannot render:RuntimeWarning")
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_each_place_is_escaped(text):
    """Fault: hostile text in a single field, also in fields of numbers. Expected: the text is rendered and escaped."""
    for record in records():
        lines = render(record).count("\n")
        for name in record:
            rendered = render(record | {name: text})
            assert_visible(rendered)
            if name not in ("modality", "event") and isinstance(record[name], str):
                assert rendered.count("\n") == lines
        assert_visible(render({f"{name}{text}": value for name, value in record.items()}))
        assert_visible(render(record | {text: text}))


def assert_visible(rendered):
    """Check that a text has no invisible characters and no characters that a terminal obeys."""
    hidden = {"Cc", "Cs", "Co", "Zl", "Zp"}
    assert {c for c in rendered if unicodedata.category(c) in hidden} <= {"\n"}
    assert not set(rendered) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u200b\u200e\u200f\u2060\ufeff\u3164\xad")
    assert balanced(rendered)


def balanced(rendered):
    """Return whether each isolate ends on the same line and before the next isolate begins."""
    marks = re.sub("[^\u2068\u2069\n]", "", rendered)
    return re.fullmatch("(\u2068\u2069|\n)*", marks) is not None


@pytest.mark.parametrize(("name", "text"), SCRIPTS.items(), ids=SCRIPTS.keys())
def test_scripts_pass(name, text):
    """Fault: excessive escaping.

    Expected: every script passes letter for letter, and right-to-left scripts are isolated.
    """
    shown = f"\u2068{text}\u2069" if name in RIGHT_TO_LEFT else text
    assert printable(text) == shown
    assert render({"event": "diagnosis", "severity": "note", "code": "c", "message": text}) == f"note (c): {shown}"
    assert render({"event": "new", text: [text]}) == f"event=new  {shown}=['{shown}']"
    check_shown(render({"event": "checkpoint", "path": text}))


@given(st.text(max_size=40))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_any_text(text):
    """Fault: any text. Expected: no hidden character remains, and plain text of any script stays whole."""
    shown = printable(text)
    assert_visible(shown)
    assert "\n" not in shown
    cells(f"[{shown}]")


@given(st.text(st.sampled_from("aم\u200c\u200d\ufe0f\U000e0101\u0301क\u094d👩🚀\u1161가\x1b"), max_size=12))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_no_two_joiners_in_a_row(text):
    """Fault: bytes hidden in a chain of joiners and selectors.

    Expected: at most a single mark passes after each letter.
    """
    invisible = set("\u200c\u200d\ufe0f\U000e0101")
    chains = [pair for pair in pairwise(printable(text)) if set(pair) <= invisible and pair != ("\ufe0f", "\u200d")]
    assert chains == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp1251", "cp437", "koi8-r", "shift_jis", "utf-16"])
def test_eight_bit_terminals(encoding):
    """Fault: a letter whose byte is a C1 control, such as CSI in cp1252. Expected: an escape, and no exception."""
    letters = "".join(filter(str.isprintable, map(chr, range(0x20, 0x3000))))
    for text in (letters, "\u203a2J", *SCRIPTS.values(), *HOSTILE.values()):
        sent = encodable_text(printable(text, longest=20_000), encoding).encode(encoding)
        if encoding not in ("shift_jis", "utf-16"):  # in these encodings such a byte is part of a letter
            assert not re.search(rb"[\x00-\x1f\x7f-\x9f]", sent)
