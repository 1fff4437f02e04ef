"""The shared terminal: one order, a line that stays below, and a reader who may be slow, broken or gone."""

import errno
import gc
import io
import os
import queue
import threading

import pytest
from tqdm import tqdm

from higgs_audio_trainer.training.progress import TrainingBar
from sinks.terminal.screen import Screen, say_on_stderr
from tests.builders import Screen as Terminal


class Gated(io.StringIO):
    """A stream whose reader reads when it is let to."""

    def __init__(self):
        super().__init__()
        self.entered, self.gate = threading.Event(), threading.Event()

    def write(self, text):
        self.entered.set()
        assert self.gate.wait(60)
        return super().write(text)


class Failing(io.StringIO):
    """A stream whose n-th writes fail."""

    def __init__(self, *errors):
        super().__init__()
        self.failures = list(errors)

    def write(self, text):
        error = self.failures.pop(0) if self.failures else None
        if error is not None:
            raise error
        return super().write(text)


FULL = OSError(errno.ENOSPC, "No space left on device")


class TestOrder:
    def test_records_and_notes(self):
        """What goes to two streams that are one place comes in the order in which it was said."""
        place = io.StringIO()
        screen = Screen(place, place)
        for number in range(5):
            screen.show(f"record {number}")
            screen.note(f"note {number}")
        screen.close()
        assert place.getvalue().split("\n")[:-1] == [f"{kind} {n}" for n in range(5) for kind in ("record", "note")]

    def test_each_to_its_own(self):
        """Records go to one stream, notices to the other."""
        out, err = io.StringIO(), io.StringIO()
        screen = Screen(out, err)
        screen.show("a\nb")
        screen.note("c")
        screen.close()
        assert (out.getvalue(), err.getvalue()) == ("a\nb\n", "c\n")

    def test_after_what_was_printed(self, tmp_path):
        """What the program printed before comes before, though it was still in Python's buffer."""
        with (tmp_path / "out").open("w") as out:
            out.write("printed\n")
            screen = Screen(out, None)
            screen.show("shown")
            screen.close()
        assert (tmp_path / "out").read_text() == "printed\nshown\n"

    def test_a_notice_is_one_harmless_line(self):
        """A notice may quote data: controls in it are escaped."""
        err = io.StringIO()
        screen = Screen(None, err)
        screen.note("cannot open a\n\x1b[2J")
        screen.close()
        assert err.getvalue() == "cannot open a\\n\\x1b[2J\n"

    def test_a_notice_is_folded_to_the_terminal(self, monkeypatch):
        """A notice on a terminal has no cut word. Without a terminal its line has any length."""
        monkeypatch.setenv("COLUMNS", "80")
        text = "Stopping after this step; a checkpoint will be saved. Ctrl-C again ends now without one."
        for err, lines in ((Terminal(), [text[:75], f"  {text[76:]}", ""]), (io.StringIO(), [text, ""])):
            screen = Screen(None, err)
            screen.note(text)
            screen.close()
            assert err.getvalue().replace("\r", "").split("\n") == lines

    def test_an_error_is_folded_to_the_terminal(self, monkeypatch):
        """The message of an error has no cut word."""
        monkeypatch.setenv("COLUMNS", "40")
        monkeypatch.setattr("sys.stderr", terminal := Terminal())
        say_on_stderr("--devise: expected a known flag. See higgs-audio-trainer train --help.")
        assert terminal.lines() == ["--devise: expected a known flag. See", "  higgs-audio-trainer train --help.", ""]

    def test_byte_order_mark(self, tmp_path):
        """An encoding with a byte order mark has one, not one a record."""
        with (tmp_path / "out").open("w", encoding="utf-16") as out:
            screen = Screen(out, None)
            screen.show("a")
            screen.show("é")
            screen.close()
        assert (tmp_path / "out").read_bytes().decode("utf-16") == "a\né\n"


class TestStatus:
    def test_steps_aside(self):
        """The line is taken away before a text and drawn again below it; the latest wins; "" takes it away."""
        terminal = Terminal()
        screen = Screen(terminal, terminal)
        for number in range(3):
            screen.status(f"{number} of 3")
            screen.show(f"record {number}")
        screen.note("note")
        screen.status("3 of 3")
        while "3 of 3" not in terminal.getvalue():
            gc.collect(0)
        assert terminal.lines() == ["record 0", "record 1", "record 2", "note", "3 of 3"]
        screen.status("")
        screen.close()
        assert terminal.lines() == ["record 0", "record 1", "record 2", "note", ""]

    def test_taken_away_at_the_end(self):
        """A line that nobody took away does not stay behind."""
        terminal = Terminal()
        screen = Screen(None, terminal)
        screen.status("1 of 3")
        screen.close()
        assert terminal.lines() == [""]

    def test_not_in_a_file(self):
        """Where stderr is no terminal there is no line."""
        err = io.StringIO()
        screen = Screen(None, err)
        screen.status("1 of 3")
        assert not screen.status_stream().isatty()
        screen.close()
        assert err.getvalue() == ""

    def test_wide(self):
        """A line is cut to the terminal, so that it can be taken away; controls in it are escaped."""
        terminal = Terminal()
        screen = Screen(None, terminal)
        screen.status("\x1b[2J" + "x" * 500)
        while "x" not in terminal.getvalue():
            gc.collect(0)
        [line] = terminal.lines()
        assert line.startswith(r"\x1b[2Jxxx")
        assert len(line) < 500
        screen.close()
        assert terminal.lines() == [""]

    @pytest.mark.parametrize(("leave", "left"), [(False, []), (True, ["2 of 3"])])
    def test_a_bar(self, leave, left):
        """A tqdm bar draws through the screen; closed, it goes, or stays as a line if it is to."""
        terminal = Terminal()
        screen = Screen(terminal, terminal)
        stream = screen.status_stream()
        with tqdm(total=3, file=stream, bar_format="{n_fmt} of {total_fmt}", mininterval=0, leave=leave) as bar:
            bar.update(2)
            screen.show("record")
        screen.close()
        assert [line for line in terminal.lines() if line] == ["record", *left]

    def test_the_training_bar(self):
        """The bar of the training draws where it is told."""
        terminal = Terminal()
        screen = Screen(terminal, terminal)
        bar = TrainingBar(screen.status_stream())

        class State:
            is_world_process_zero, max_steps, global_step = True, 30, 20

        bar.on_train_begin(None, State, None)
        while "20/30" not in terminal.getvalue():
            gc.collect(0)
        assert terminal.lines()[-1].startswith("training:  67%")
        bar.on_train_end(None, State, None)
        screen.close()
        assert terminal.lines() == [""]

    def test_no_terminal_to_ask(self):
        """Without stderr the bar's stream is no terminal and has no descriptor."""
        stream = Screen(None, None).status_stream()
        assert not stream.isatty()
        with pytest.raises(OSError, match="fileno"):
            stream.fileno()


class TestSlowReader:
    def test_the_oldest_are_dropped_and_counted(self):
        """Of ten records on a queue of three, the first is being written, the last three wait, six are said."""
        out, err = Gated(), io.StringIO()
        screen = Screen(out, err, capacity=3)
        screen.show("0")
        assert out.entered.wait(60)
        for number in range(1, 10):
            screen.show(str(number))
        assert screen.dropped == 6
        out.gate.set()
        screen.close()
        assert out.getvalue().split("\n") == [
            "0",
            "... 6 records were not shown on stdout: the reader was too slow; a log file, if there is one, has them",
            "7",
            "8",
            "9",
            "",
        ]
        assert (screen.dropped, err.getvalue()) == (6, "")

    def test_dropped_notices(self):
        """Notices are dropped and said by themselves, and are no records."""
        err = Gated()
        screen = Screen(None, err, capacity=2)
        screen.note("0")
        assert err.entered.wait(60)
        for number in range(1, 4):
            screen.note(str(number))
        err.gate.set()
        screen.close()
        assert err.getvalue().split("\n") == [
            "0",
            "... 1 notice was not shown on stderr: the reader was too slow",
            "2",
            "3",
            "",
        ]
        assert screen.dropped == 0

    def test_giving_up(self, monkeypatch):
        """At the end nobody waits longer than said for a reader that takes nothing; the rest counts as dropped."""
        monkeypatch.setattr("sinks.terminal.writer._PATIENCE_S", 0.1)
        out = Gated()
        screen = Screen(out, None)
        for number in range(5):
            screen.show(str(number))
        screen.close()
        assert screen.dropped == 5
        screen.show("late")
        screen.close()
        assert screen.dropped == 6
        out.gate.set()

    def test_many_requests_to_draw_are_one(self):
        """A storm of progress takes no place from the records that wait."""
        terminal = Gated()
        terminal.isatty = lambda: True
        screen = Screen(terminal, terminal, capacity=3)
        screen.show("0")
        assert terminal.entered.wait(60)
        screen.show("1")
        for number in range(1000):
            screen.status(str(number))
        terminal.gate.set()
        screen.close()
        assert (screen.dropped, terminal.getvalue().startswith("0\n1\n")) == (0, True)


class TestBrokenStream:
    def test_a_full_disk_that_is_emptied(self):
        """Fault: two writes fail. Expected: said once on the other stream, the gap is said, later records are shown."""
        out, err = Failing(FULL, FULL), io.StringIO()
        screen = Screen(out, err)
        for number in range(4):
            screen.show(str(number))
        screen.close()
        assert out.getvalue() == (
            "... 2 records were not shown on stdout: No space left on device; a log file, if there is one, has them\n"
            "2\n3\n"
        )
        assert err.getvalue() == (
            "higgs-audio-trainer: cannot write to stdout (No space left on device); training continues, later lines "
            "are tried again\n"
        )
        assert screen.dropped == 2

    @pytest.mark.parametrize(
        "error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("I/O operation on closed file")]
    )
    def test_nobody_reads(self, error):
        """Fault: the reader is gone. Expected: said once, nothing is tried again, the count is said at the end."""
        out, err = Failing(error), io.StringIO()
        screen = Screen(out, err)
        for number in range(4):
            screen.show(str(number))
        screen.close()
        first, second, end = err.getvalue().split("\n")
        assert first.startswith("higgs-audio-trainer: stdout has no reader any more (")
        assert second.startswith("... 4 records were not shown on stdout: ")
        assert (out.getvalue(), screen.dropped, end) == ("", 4, "")

    def test_stderr_is_gone(self):
        """Fault: nobody reads stderr. Expected: it is said on stdout, which goes on."""
        out, err = io.StringIO(), Failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
        screen = Screen(out, err)
        screen.note("a")
        screen.show("b")
        screen.close()
        assert sorted(out.getvalue().split("\n")) == [
            "",
            "... 1 notice was not shown on stderr: Broken pipe",
            "b",
            "higgs-audio-trainer: stderr has no reader any more (Broken pipe); training continues",
        ]

    def test_an_odd_error(self):
        """Fault: a replaced stdout raises what it likes. Expected: said by name, with controls escaped."""
        out, err = Failing(RuntimeError("\x1b[2J")), io.StringIO()
        screen = Screen(out, err)
        screen.show("a")
        screen.close()
        assert r"(RuntimeError: \x1b[2J)" in err.getvalue()
        assert screen.dropped == 1

    def test_both_are_gone(self):
        """Fault: neither stream can be written. Expected: counted, nothing raised, no endless complaint."""
        error = BrokenPipeError(errno.EPIPE, "Broken pipe")
        screen = Screen(Failing(error), Failing(error))
        screen.show("a")
        screen.note("b")
        screen.close()
        assert screen.dropped == 1

    def test_nobody_asked_to_read(self):
        """Without streams nothing is shown, nothing counts as dropped, and no thread is started."""
        before = threading.active_count()
        screen = Screen(None, None)
        screen.show("a")
        screen.note("b")
        screen.status("c")
        screen.close()
        assert (screen.dropped, threading.active_count()) == (0, before)

    def test_no_thread_to_be_had(self, monkeypatch):
        """Fault: the system has no thread left. Expected: nothing is raised; it is tried again at the next record."""
        start, refused = __import__("_thread").start_new_thread, iter([RuntimeError("can't start new thread")])

        def stingy(*arguments):
            for error in refused:
                raise error
            return start(*arguments)

        monkeypatch.setattr("_thread.start_new_thread", stingy)
        out = io.StringIO()
        screen = Screen(out, None)
        screen.show("a")
        screen.show("b")
        screen.close()
        assert (out.getvalue(), screen.dropped) == ("a\nb\n", 0)

    def test_no_thread_at_all(self, monkeypatch):
        """Fault: no thread is ever to be had. Expected: what waits is bounded, and all of it counts as dropped."""

        def refuse(*arguments):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("_thread.start_new_thread", refuse)
        screen = Screen(io.StringIO(), None, capacity=4)
        for _ in range(10):
            screen.show("a")
        assert screen._of_records._queue.qsize() == 4
        screen.close()
        assert screen.dropped == 10

    def test_no_descriptor_left(self, monkeypatch):
        """Fault: the process has no descriptor left for a copy. Expected: the stream's own is written."""

        def refuse(descriptor):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "dup", refuse)
        reader, writer = os.pipe()
        with open(writer, "w") as out:  # noqa: PTH123 - a descriptor
            screen = Screen(out, None)
            screen.show("a")
            screen.close()
        assert os.read(reader, 100) == b"a\n"
        os.close(reader)


class TestReplacedStream:
    def test_a_patched_write_is_honoured(self, tmp_path):
        """A tracker that captures the console by patching `sys.stdout.write` gets the records."""
        seen = queue.SimpleQueue()
        with (tmp_path / "out").open("w") as out:
            out.write = seen.put
            screen = Screen(out, None)
            screen.show("a")
            screen.close()
        assert seen.get_nowait() == "a\n"
        assert (tmp_path / "out").read_text() == ""

    def test_a_notebook(self, tmp_path):
        """A notebook's stream has the descriptor of the server's terminal; its text goes to the cell."""
        with (tmp_path / "server").open("w") as server:

            class Cell(io.StringIO):
                def fileno(self):
                    return server.fileno()

            cell = Cell()
            screen = Screen(cell, None)
            screen.show("a")
            screen.close()
        assert cell.getvalue() == "a\n"
