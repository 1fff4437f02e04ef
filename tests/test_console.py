"""The console sink: colour by terminal, any encoding, one write for each record, and a shared progress bar."""

import copy
import io
import os
import pickle
import sys
import termios
from functools import partial

import pytest
from tqdm import tqdm

import sinks
from higgs_audio_trainer.pipeline.emit import Pipeline
from sinks import render
from sinks.console import ConsoleSink, console_sink, wants_color
from sinks.null import discard
from sinks.rendering.record import failure_text
from sinks.rendering.renderers import RENDERERS
from sinks.terminal.fold import columns, terminal_columns
from sinks.terminal.screen import Screen
from tests.builders import Screen as Terminal
from tests.builders import (
    all_events,
    audio_sample,
    checkpoint,
    context,
    dataset_audit,
    record_of,
    text_sample,
    token_counts,
    window,
)


def shown_by(sink, *records):
    """Give records to a sink and wait until the screen has shown the records."""
    for record in records:
        sink(record)
    sink.close()


def console_on(out, *, err=None, color=False, say=None):
    """Make a console sink with a separate screen."""
    encoding = getattr(out, "encoding", None)
    return ConsoleSink(Screen(out, err), color=color, encoding=encoding, close_screen=True, say=say)


class TestColor:
    @pytest.mark.parametrize(
        ("environment", "terminal", "expected"),
        [
            ({}, True, True),
            ({}, False, False),
            ({"TERM": "xterm-256color"}, True, True),
            ({"TERM": "dumb"}, True, False),
            ({"NO_COLOR": "1"}, True, False),
            ({"NO_COLOR": ""}, True, True),
            ({"FORCE_COLOR": "1"}, False, True),
            ({"FORCE_COLOR": ""}, False, False),
            ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
            ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ],
    )
    def test_wants_color(self, environment, terminal, expected):
        """A terminal gets colour unless the terminal is dumb.

        NO_COLOR outranks FORCE_COLOR, and FORCE_COLOR outranks the terminal.
        """
        assert wants_color(Terminal() if terminal else io.StringIO(), environment) is expected

    @pytest.mark.parametrize(("force", "marked"), [("", "*7890"), ("1", "\x1b[31m*7890\x1b[0m")])
    def test_is_decided_when_made(self, monkeypatch, capsys, force, marked):
        """The factory `console` reads the environment once, and the sink writes to stdout."""
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("FORCE_COLOR", force)
        [(_, sink)] = sinks.build("console", context())
        monkeypatch.setenv("NO_COLOR", "1")
        shown_by(sink, record_of(text_sample()))
        assert marked in capsys.readouterr().out

    def test_counts_are_for_files(self):
        """The console does not show counts, which are for programs."""
        out = io.StringIO()
        shown_by(console_on(out), record_of(token_counts()), record_of(checkpoint()))
        assert out.getvalue() == "saved checkpoint-20\n"

    def test_other_ranks_are_silent(self):
        """Rank 0 alone speaks."""
        assert sinks.build("console", context(rank=1)) == [("console", discard)]


class TestStream:
    @pytest.mark.parametrize(
        ("encoding", "expected"),
        [
            ("utf-8", "saved \u2068é مرحبا 🎧\u2069\n"),
            ("ascii", r"saved \xe9 \u0645\u0631\u062d\u0628\u0627 \U0001f3a7" + "\n"),
            ("latin-1", r"saved é \u0645\u0631\u062d\u0628\u0627 \U0001f3a7" + "\n"),
            ("iso-8859-6", r"saved \xe9 مرحبا \U0001f3a7" + "\n"),
            ("cp1252", r"saved é \u0645\u0631\u062d\u0628\u0627 \U0001f3a7" + "\n"),
            ("utf-16", "saved \u2068é مرحبا 🎧\u2069\n"),
        ],
    )
    def test_poor_encoding(self, encoding, expected):
        """Characters that an encoding lacks are escaped. Isolates, which are no data, are left out."""
        raw = io.BytesIO()
        out = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
        shown_by(console_on(out), record_of(checkpoint(path="é مرحبا 🎧")))
        assert raw.getvalue().decode(encoding) == expected

    @pytest.mark.parametrize(
        ("encoding", "expected"),
        [
            (None, "saved é\n"),
            ("klingon", r"saved \xe9" + "\n"),
            ("rot13", r"saved \xe9" + "\n"),
            ("undefined", r"saved \xe9" + "\n"),
            (8, r"saved \xe9" + "\n"),
        ],
    )
    def test_unknown_encoding(self, encoding, expected):
        """A stream without an encoding takes any text. A stream with an unknown encoding gets ASCII."""

        class Odd(io.StringIO):
            pass

        Odd.encoding = encoding
        out = Odd()
        shown_by(console_on(out), record_of(checkpoint(path="é")))
        assert out.getvalue() == expected

    @pytest.mark.parametrize("slots", [5, 2000])
    def test_one_write_a_record(self, slots):
        """A record reaches the system in one write of any length, so that no other line splits the record."""

        class Raw(io.RawIOBase):
            writes = ()

            def writable(self):
                return True

            def write(self, data):
                self.writes = (*self.writes, bytes(data))
                return len(data)

        raw = Raw()
        record = record_of(audio_sample(first=window(range(slots))))
        shown_by(console_on(io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")), record, record)
        assert raw.writes == ((render(record) + "\n").encode(),) * 2

    def test_a_bar_on_the_same_terminal(self):
        """A progress bar is cleared before a record and drawn again after the record."""
        terminal = Terminal()
        screen = Screen(terminal, terminal)
        sink = ConsoleSink(screen, color=False, encoding="utf-8")
        with tqdm(total=3, file=screen.status_stream(), bar_format="{n_fmt} of {total_fmt}", mininterval=0) as bar:
            bar.update()
            sink(record_of(checkpoint()))
            sink(record_of(text_sample(first=window([1]), last=window([]))))
            bar.update()
            screen.close()
        assert terminal.lines() == [
            "saved checkpoint-20",
            "Sample 1 Prediction vs Label Comparison:  en-1 at step 20, 10 of 12 correct",
            "  First 1 - Predictions: [1]",
            "  First 1 - Labels:      [1]",
            "",
        ]

    def test_an_enormous_record(self):
        """A record of a million tokens is cut before rendering, and the text reports the cut."""
        out = io.StringIO()
        shown_by(console_on(out), record_of(text_sample(first=window(range(1_000_000)))))
        assert len(out.getvalue()) < 200_000
        assert "(shortened: first.positions (1,000,000 long), first.inputs (1,000,000 long)" in out.getvalue()

    def test_a_record_that_no_file_can_hold(self):
        """A third party's record is shown, whatever the record contains."""
        out = io.StringIO()
        shown_by(console_on(out), {"event": "odd", "object": Ellipsis, "bytes": b"\x1b[2J", "huge": 10**5000})
        assert out.getvalue() == "event=odd  object=Ellipsis  bytes=b'\\x1b[2J'  huge=<int>\n"


@pytest.fixture
def terminal(monkeypatch):
    """Open a terminal: its stream, and functions that resize it and read what it was sent."""
    monkeypatch.delenv("COLUMNS", raising=False)
    master, slave = os.openpty()
    termios.tcsetattr(slave, termios.TCSANOW, [0, 0, *termios.tcgetattr(slave)[2:]])  # newlines as they are
    with open(slave, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor
        yield stream, partial(termios.tcsetwinsize, master), partial(os.read, master, 100_000)
    os.close(master)


class TestWidth:
    def test_a_resize_counts_at_once(self, terminal):
        """Each record is folded to the present width of the terminal, without a word cut."""
        stream, resize, read = terminal
        sink = console_on(stream)
        record, widths = record_of(dataset_audit()), (80, 120, 50)
        for width in widths:
            resize((24, width))
            sink(record)
        sink.close()
        expected = [render(record, width=width) for width in widths]
        assert read().decode() == "".join(f"{shown}\n" for shown in expected)
        assert len(set(expected)) == 3

    def test_every_event_at_80_columns(self, terminal):
        """A terminal that does not know its size has 80 columns, which no line of any event exceeds."""
        stream, resize, read = terminal
        resize((0, 0))
        shown_by(console_on(stream), *map(record_of, all_events()))
        lines = read().decode().split("\n")
        assert max(map(columns, lines)) in range(70, 81)

    def test_columns_outranks_the_terminal(self, terminal, monkeypatch):
        """The environment variable COLUMNS counts more, if it is a number of columns."""
        stream, resize, _ = terminal
        resize((24, 90))
        for given, expected in (("60", 60), ("1", 20), ("0", 90), ("x", 90), ("", 90)):
            monkeypatch.setenv("COLUMNS", given)
            assert terminal_columns(stream) == expected

    def test_not_a_terminal(self, monkeypatch):
        """A file has lines of any length, for grep, whatever COLUMNS says."""
        monkeypatch.setenv("COLUMNS", "60")
        out = io.StringIO()
        shown_by(console_on(out), record_of(dataset_audit()))
        assert out.getvalue() == render(record_of(dataset_audit())) + "\n"


class TestRendererFailures:
    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch):
        """Break the renderer of checkpoints."""
        monkeypatch.setitem(RENDERERS, "checkpoint", lambda record, text_format: {}[record["path"]])

    def test_report(self):
        """A bug of a renderer is reported once, and counted at the end; the record is shown field by field."""
        out, messages = io.StringIO(), []
        sink = console_on(out, say=messages.append)
        shown_by(sink, {"event": "checkpoint", "path": "a"}, {"event": "checkpoint", "path": "b"})
        assert out.getvalue() == "event=checkpoint  path=a\nevent=checkpoint  path=b\n"
        assert messages == [
            f"higgs-audio-trainer: console: {failure_text('checkpoint', KeyError('a'))}",
            "higgs-audio-trainer: console: 2 records were shown field by field",
        ]
        assert sink.dropped == 0

    def test_without_a_reporter(self):
        """A sink without a reporter reports on the sink's own screen."""
        err = io.StringIO()
        shown_by(console_on(io.StringIO(), err=err), {"event": "checkpoint", "path": "a"})
        assert err.getvalue().splitlines()[1:] == ["higgs-audio-trainer: console: 1 record was shown field by field"]

    def test_in_a_run(self):
        """The sink of a run reports through the run, and emission continues."""
        messages = []
        screen = Screen(io.StringIO(), None)
        run = sinks.SinkContext("out", "r", 0, 0, screen=screen, say=messages.append)
        [(_, sink)] = built = sinks.build("console", run)
        emit = Pipeline(built, run_id="r", say=messages.append)
        for _ in range(2):
            emit(checkpoint())
        sink.close()
        screen.close()
        assert emit.lost == 0
        assert [message.partition(" (")[0] for message in messages] == [
            "higgs-audio-trainer: console: cannot render checkpoint",
            "higgs-audio-trainer: console: 2 records were shown field by field",
        ]


class TestMaking:
    def test_a_closed_standard_output_is_nobody_reading(self, monkeypatch):
        """The training continues without a standard output, as in a daemon.

        The console sink takes records and writes nothing.
        """
        monkeypatch.setattr("sys.stdout", None)
        assert console_sink(context()) is discard

    def test_a_closed_stream(self, monkeypatch):
        """A closed standard output loses the records, and the run continues."""
        closed = io.StringIO()
        closed.close()
        monkeypatch.setattr("sys.stdout", closed)
        sink = console_sink(context())
        shown_by(sink, record_of(checkpoint()))
        assert sink.dropped == 1

    def test_the_runs_screen_is_used_and_left_open(self):
        """Records go to the shared screen. The run closes the screen, not the sink."""
        out = io.StringIO()
        screen = Screen(out, None)
        sink = console_sink(sinks.SinkContext("out", "r", 0, 0, screen=screen))
        sink(record_of(checkpoint()))
        sink.close()
        screen.show("after")
        screen.close()
        assert out.getvalue() == "saved checkpoint-20\nafter\n"

    def test_in_another_process(self):
        """A copy in a DataLoader worker shows nothing, because one process owns the terminal."""
        sink = console_on(sys.stdout)
        assert pickle.loads(pickle.dumps(sink)) is discard
        assert copy.deepcopy(sink) is discard
