"""Long output on a terminal goes through a pager, other output does not."""

import fcntl
import io
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time

import pytest

from higgs_audio_trainer.cli.pager import paged
from tests.builders import record_of, run_start, text_sample
from tests.test_reader import dump, file_of, records_of

PATIENCE_S = 20
needs_less = pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed")


class Terminal:
    """Process in a terminal of its own, with keys for a test to press."""

    def __init__(self, *arguments, **environment):
        settings = {key: value for key, value in os.environ.items() if key not in ("PAGER", "LESS", "NO_COLOR")}
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 80))
        self.modes = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "higgs_audio_trainer", "show", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - so that its keys are signals
            env=settings | {"TERM": "xterm"} | environment,
        )
        self.shown = b""

    def wait_for(self, text):
        """Read the screen until a text appears."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self._read()

    def press(self, keys):
        """Press keys."""
        os.write(self._master, keys)

    def press_until(self, keys, text):
        """Press keys until a text appears, because an interrupted pager drops unread keys."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self.press(keys)
            while text not in self.shown and self._read(seconds=1):
                pass

    def end(self):
        """Read the remaining output and return the exit code and stderr."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self._read()
        while self._read():
            pass
        return self.process.returncode, self.process.stderr.read()

    def _read(self, seconds=0.05):
        if not select.select([self._master], [], [], seconds)[0]:
            return b""
        data = os.read(self._master, 65536)
        self.shown += data
        return data


@pytest.fixture
def terminal():
    """Open terminals and close them after the test."""
    opened = []

    def open_one(*arguments, **environment):
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    yield open_one
    for one in opened:
        one.process.kill()
        one.process.communicate()
        os.close(one.slave)
        os.close(one._master)


@pytest.fixture
def log(tmp_path):
    """Write a log of many screens."""
    file_of(tmp_path).write_bytes(dump(records_of([run_start(), *[text_sample()] * 3_000])))
    return tmp_path


@needs_less
class TestLess:
    def test_page_by_page(self, log, terminal):
        """Space shows the next screen in colour. q ends without an error and restores the terminal."""
        screen = terminal(log)
        screen.wait_for(b":")
        assert b"\x1b[1mrun r\x1b[0m" in screen.shown
        assert screen.shown.count(b"\n") < 30
        screen.press(b" ")
        screen.wait_for(b"8901")
        screen.press(b"q")
        assert screen.end() == (0, b"")
        assert termios.tcgetattr(screen.slave) == screen.modes

    def test_interrupt(self, log, terminal):
        """Ctrl-C goes to the pager. The pager continues and the terminal is restored."""
        screen = terminal(log)
        screen.wait_for(b"8901")
        screen.press(b"\x03")
        screen.wait_for(b"\x07")
        screen.press_until(b"=", b"lines 1-")
        screen.press(b"q")
        assert screen.end() == (0, b"")
        assert termios.tcgetattr(screen.slave) == screen.modes

    def test_what_fits_the_screen(self, log, terminal):
        """Short output is printed and the command ends."""
        screen = terminal(log, "--event", "run_start")
        assert screen.end() == (0, b"")
        assert b"seed 42" in screen.shown

    def test_faults_come_afterwards(self, tmp_path, terminal):
        """Problems of the log are printed after the pager ends."""
        file_of(tmp_path).write_bytes(b"junk\n" + dump(records_of([run_start(), *[text_sample()] * 50])))
        screen = terminal(tmp_path)
        screen.wait_for(b":")
        assert select.select([screen.process.stderr], [], [], 0)[0] == []
        screen.press(b"q")
        code, output = screen.end()
        assert code == 0
        assert b":1 (byte 0): $: expected a JSON object" in output


class TestWhich:
    def test_the_persons_own(self, log, terminal):
        """`PAGER` holds the pager and quoted arguments. The pager may end early."""
        program = f"{sys.executable} -c \"import sys; print('page of', sys.stdin.readline())\""
        screen = terminal(log, PAGER=program)
        assert screen.end() == (0, b"")
        assert b"page of " in screen.shown

    @pytest.mark.parametrize(
        "environment",
        [{"PAGER": ""}, {"PAGER": "cat"}, {"PAGER": "no-such-pager"}, {"PAGER": "'"}, {"TERM": "dumb"}],
        ids=str,
    )
    def test_none(self, log, terminal, environment):
        """Without a pager everything is printed."""
        screen = terminal(log, "--step", "20", "--modality", "text", **environment)
        assert screen.end() == (0, b"")
        assert screen.shown.count(b"Sample 1") == 3_000

    @pytest.mark.parametrize("flags", [["--no-pager"], ["--summary"]])
    def test_not_wanted(self, log, terminal, flags):
        """--no-pager and --summary use no pager."""
        screen = terminal(log, *flags, PAGER="false")
        assert screen.end() == (0, b"")
        assert b"seed 42" in screen.shown

    def test_no_terminal(self):
        """Output to a file is unchanged."""
        out = io.StringIO()
        with paged(out, {"PAGER": "false", "TERM": "xterm"}, wanted=False) as output:
            output.write("text")
            output.check()
        assert out.getvalue() == "text"

    def test_a_pager_that_was_left_is_noticed(self):
        """`check` notices a pager that ended while nothing is written."""
        noticed = False
        before = signal.getsignal(signal.SIGINT)
        with paged(io.StringIO(), {"PAGER": "true", "TERM": "xterm"}, wanted=True) as output:
            output._pager.wait(PATIENCE_S)
            try:
                output.check()
            except BrokenPipeError:
                noticed = True
        assert noticed
        assert signal.getsignal(signal.SIGINT) == before

    def test_raw_bytes(self, tmp_path, terminal):
        """Raw lines pass through the pager byte for byte."""
        records = [record_of(text_sample(sample_id="\x1bعينة"))]
        (tmp_path / "log").write_bytes(dump(records))
        screen = terminal(tmp_path / "log", "--raw", PAGER=f"{sys.executable} -c 'print(input() + chr(33))'")
        assert screen.end() == (0, b"")
        assert screen.shown.replace(b"\r\n", b"\n") == dump(records).replace(b"\n", b"!\n")
