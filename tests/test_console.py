"""The console sink: colour where the terminal has it, any encoding, one write a record, beside a progress bar."""

import io

import pytest
from tqdm import tqdm

import sinks
from sinks import ConsoleSink, render
from sinks.console import console_sink, wants_color
from sinks.null import discard
from tests.builders import Screen, audio_sample, checkpoint, context, record_of, text_sample, window


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
        """A terminal gets colour unless it is dumb; NO_COLOR outranks FORCE_COLOR, which outranks the rest."""
        assert wants_color(Screen() if terminal else io.StringIO(), environment) is expected

    @pytest.mark.parametrize(("force", "marked"), [("", "*7890"), ("1", "\x1b[1;31m7890\x1b[0m")])
    def test_is_decided_when_made(self, monkeypatch, capsys, force, marked):
        """The sink that `console` makes reads the environment, once, and writes to stdout."""
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("FORCE_COLOR", force)
        [(_, sink)] = sinks.build("console", context())
        monkeypatch.setenv("NO_COLOR", "1")
        sink(record_of(text_sample()))
        assert marked in capsys.readouterr().out

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
        ],
    )
    def test_poor_encoding(self, encoding, expected):
        """What an encoding lacks is escaped; isolates, which are no data, are left out."""
        raw = io.BytesIO()
        sink = ConsoleSink(io.TextIOWrapper(raw, encoding=encoding, newline="\n"), color=False)
        sink(record_of(checkpoint(path="é مرحبا 🎧")))
        assert raw.getvalue().decode(encoding) == expected

    @pytest.mark.parametrize("slots", [5, 5000])
    def test_one_write_a_record(self, slots):
        """A record reaches the system in one write, however long it is, so that no other line falls into it."""

        class Raw(io.RawIOBase):
            writes = ()

            def writable(self):
                return True

            def write(self, data):
                self.writes = (*self.writes, bytes(data))
                return len(data)

        raw = Raw()
        sink = ConsoleSink(io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8"), color=False)
        record = record_of(audio_sample(first=window(range(slots))))
        sink(record)
        sink(record)
        assert raw.writes == ((render(record) + "\n").encode(),) * 2

    def test_bar_steps_aside(self):
        """A progress bar on the same terminal is cleared before a record and drawn again after it."""
        screen = Screen()
        sink = ConsoleSink(screen, color=False)
        with tqdm(total=3, file=screen, bar_format="{n_fmt} of {total_fmt}", mininterval=0) as bar:
            bar.update()
            before = len(screen.drawn)
            sink(record_of(checkpoint()))
            assert "".join(screen.drawn[before:]) == "\r      \rsaved checkpoint-20\n\r1 of 3"
            sink(record_of(text_sample(first=window([1]), last=window([]))))
            bar.update()
            assert screen.lines() == [
                "saved checkpoint-20",
                "Sample 1 Prediction vs Label Comparison:  en-1, 10 of 12 right",
                "  First 1 - Predictions: [1]",
                "  First 1 - Labels:      [1]",
                "2 of 3",
            ]

    def test_bar_on_stderr(self, monkeypatch):
        """The bar of stderr makes room for the records of stdout, for both are one terminal."""
        screen = Screen()
        err = Screen()
        err.write = screen.write
        monkeypatch.setattr("sys.stdout", screen)
        monkeypatch.setattr("sys.stderr", err)
        [(_, sink)] = sinks.build("console", context())
        with tqdm(total=3, bar_format="{n_fmt}/{total_fmt}"):
            sink(record_of(checkpoint()))
            assert screen.lines() == ["saved checkpoint-20", "0/3"]


def test_a_closed_standard_output_is_nobody_reading(monkeypatch):
    """A daemon that closed its standard output trains on; the console sink takes records and writes nothing."""
    monkeypatch.setattr("sys.stdout", None)
    assert console_sink(sinks.SinkContext("out", "r", 0, 0)) is discard
