"""Phases of a command: a status line on a terminal, a line at the start and at the end elsewhere, nothing if fast."""

import io
import os
import threading

import pytest

from higgs_audio_trainer import phases
from higgs_audio_trainer.cli import main
from sinks.terminal import phase_lines
from sinks.terminal.phase_lines import PhaseLines
from sinks.terminal.screen import Screen
from tests.builders import Screen as Terminal


class Shown:
    """A screen that shows phases, with a clock that the test moves."""

    def __init__(self, err, **options):
        self.err, self.now = err, 100.0
        self.screen = Screen(None, err)
        self.lines = PhaseLines(self.screen, clock=lambda: self.now, **options)

    def wait(self, seconds):
        self.now += seconds
        self.lines.tick()

    def close(self):
        self.screen.close()
        return self.err.getvalue()


@pytest.fixture
def clock(monkeypatch):
    """Phases and their lines share the clock of `Shown`, and a second is long again."""
    monkeypatch.setattr(phase_lines, "PATIENCE_S", 1.0)

    def shown(err, **options):
        made = Shown(err, **options)
        monkeypatch.setattr(phases.Phase.__init__, "__kwdefaults__", {"is_slow": False, "clock": lambda: made.now})
        return made

    return shown


def test_a_file_gets_a_line_at_start_and_end(clock):
    """A phase is announced when it has lasted a second, and then its end is too."""
    shown = clock(io.StringIO())
    with phases.shown_by(lambda: shown.lines), phases.phase("loading the weights"):
        shown.wait(0.9)
        shown.wait(0.2)
        shown.wait(75)
    assert shown.close() == "loading the weights ...\nloading the weights: done in 1:16\n"


def test_a_file_gets_the_progress_each_minute(clock):
    """A phase with a detail tells how far it is, and a phase without has nothing to tell."""
    shown = clock(io.StringIO())
    with phases.shown_by(lambda: shown.lines), phases.phase("reading the log"):
        shown.wait(2)
        phases.tell("line 4,096 of run.jsonl")
        shown.wait(59)
        shown.wait(1)
        shown.wait(59)
    assert shown.close().splitlines()[1:] == [
        "reading the log: line 4,096 of run.jsonl  1:02",
        "reading the log: done in 2:01",
    ]


def test_a_fast_phase_prints_nothing(clock):
    """Neither on a terminal nor in a file."""
    for err in (io.StringIO(), Terminal()):
        shown = clock(err)
        with phases.shown_by(lambda shown=shown: shown.lines), phases.phase("hashing"):
            shown.wait(0.9)
        assert shown.close() == ""


def test_a_terminal_has_a_status_that_goes(clock):
    """The innermost long phase is shown with its detail, above the bar, which returns."""
    shown = clock(Terminal())
    shown.screen.status("training: 20%")
    with phases.shown_by(lambda: shown.lines), phases.phase("evaluating"):
        phases.tell("batch 1 of 3")
        shown.wait(2)
        assert shown.lines.status() == "evaluating: batch 1 of 3  2 s"
        with phases.phase("loading the codec"):
            shown.wait(0.5)
            assert shown.lines.status() == "evaluating: batch 1 of 3  2 s"
            shown.wait(0.5)
            assert shown.lines.status() == "loading the codec  1 s"
            shown.screen.settle()
            assert shown.err.lines() == ["loading the codec  1 s"]
    shown.screen.settle()
    assert shown.err.lines() == ["training: 20%"]
    shown.close()
    assert shown.err.lines() == [""]


def test_a_slow_phase_is_shown_at_once_and_is_gone_when_the_block_ends(clock):
    """What a command prints after a phase begins on an empty line."""
    shown = clock(Terminal(), waits=True)
    with phases.shown_by(lambda: shown.lines), phases.phase("starting", is_slow=True):
        shown.screen.settle()
        assert shown.err.lines() == ["starting"]
        with phases.aside():
            assert shown.err.lines() == [""]
        shown.screen.settle()
        assert shown.err.lines() == ["starting"]
    assert shown.err.lines() == [""]
    shown.close()


def test_the_thread_of_the_screen_keeps_time(monkeypatch):
    """Without any help a phase is announced while the main thread works."""
    monkeypatch.setattr(phase_lines, "PATIENCE_S", 0.0)
    announced = threading.Event()

    class Noticing(io.StringIO):
        def write(self, text):
            announced.set()
            return super().write(text)

    screen = Screen(None, Noticing())
    lines = PhaseLines(screen)
    with phases.shown_by(lambda: lines), phases.phase("hashing"):
        assert announced.wait(60)
    screen.close()


def test_nobody_shows():
    """A program that uses the library prints nothing, and an ended phase is not in progress."""
    with phases.phase("outer"), phases.aside():
        assert phases.current() == "outer"
        with pytest.raises(ValueError, match="x"), phases.phase("inner"):
            raise ValueError("x")
        assert phases.current() == "outer"
    assert phases.current() is None
    phases.tell("nothing")


def test_a_forked_child_shows_nothing(clock):
    """A child of a fork neither takes the lock nor prints."""
    shown = clock(io.StringIO())
    with shown.lines._lock:
        child = os.fork()
        if not child:
            with phases.shown_by(lambda: shown.lines), phases.phase("in the child"):
                os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert shown.close() == ""


def test_ctrl_c_before_a_training_is_answered(monkeypatch, capsys):
    """The answer names the innermost phase and the way on. Commands that print have none."""

    def interrupted(*_):
        with phases.phase("checking"), phases.phase("encoding"):
            raise KeyboardInterrupt

    monkeypatch.setattr("higgs_audio_trainer.cli._dispatch", interrupted)
    assert main(["--train_manifest", "m.jsonl"]) == 130
    assert capsys.readouterr().err == (
        "higgs-audio-trainer: interrupted while encoding. To go on, enter the same command: encoded clips are kept.\n"
    )
    assert (main(["show", "--follow", "out"]), capsys.readouterr().err) == (130, "")
