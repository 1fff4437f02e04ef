"""Stop signals: recording, earlier handlers, and the end of a hopeless wait."""

import os
import signal
import subprocess
import sys
import threading
from signal import Signals
from textwrap import dedent

import pytest

from higgs_audio_trainer.phases import EVALUATING, FINISHING, SAVING, SPEAKING
from higgs_audio_trainer.training.signals import STOP_SIGNALS, StopSignals, answer_to, exit_status, under_torchrun


def send(number):
    """Send a signal to this process. Python runs the handler before the next statement."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_noted_and_its_handler_put_back(number):
    """The first signal is recorded, later signals change nothing, and the earlier handlers return after the block."""
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    with StopSignals() as stop:
        assert stop.received is None
        send(number)
        assert stop.received is number
        send(Signals.SIGTERM)
        assert stop.received is number
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_only_the_first_signal_is_answered():
    """The answer comes inside the handler, before the signal has any other effect."""
    got = []
    with StopSignals(answer=got.append):
        send(Signals.SIGTERM)
        assert got == [Signals.SIGTERM]
        send(Signals.SIGINT)
        send(Signals.SIGHUP)
    assert got == [Signals.SIGTERM]


@pytest.mark.parametrize("phase", [None, EVALUATING, SPEAKING, SAVING, FINISHING])
def test_the_answer_fits_the_phase(phase):
    """Each phase has its own words, and only Ctrl-C is told of a second Ctrl-C."""
    answers = {answer_to(Signals.SIGTERM, other) for other in (None, EVALUATING, SPEAKING, SAVING, FINISHING)}
    assert len(answers) == 5
    said = answer_to(Signals.SIGTERM, phase)
    assert said.startswith("SIGTERM: ")
    by_hand = answer_to(Signals.SIGINT, phase)
    assert by_hand.casefold() == f"{said.removeprefix('SIGTERM: ')} ctrl-c again ends now without one.".casefold()


def test_earlier_handlers_are_called_too(monkeypatch):
    """A user's handler, for example for a scheduler's requeue signal, still runs."""
    got = []
    before = signal.signal(Signals.SIGUSR1, lambda number, frame: got.append(number))
    try:
        with StopSignals() as stop:
            send(Signals.SIGUSR1)
            assert (stop.received, got) == (Signals.SIGUSR1, [Signals.SIGUSR1])
        send(Signals.SIGUSR1)
        assert len(got) == 2
    finally:
        signal.signal(Signals.SIGUSR1, before)


def test_an_ignored_signal_stays_ignored():
    """`nohup` ignores SIGHUP, and SIGHUP stays ignored."""
    before = signal.signal(Signals.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            send(Signals.SIGHUP)
            assert stop.received is None
    finally:
        signal.signal(Signals.SIGHUP, before)


def test_a_second_interrupt_ends_at_once():
    """A second Ctrl-C does not wait for a checkpoint."""
    with StopSignals() as stop:
        send(Signals.SIGINT)
        assert stop.received is Signals.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(Signals.SIGINT)


def test_torchrun_says_an_interrupt_twice():
    """Under torchrun, the terminal and torchrun both send a Ctrl-C, and both signals count as a single interrupt."""
    settings = under_torchrun({"TORCHELASTIC_RUN_ID": "x"})
    assert settings["grace_s"] < 30
    assert under_torchrun({}) == {}
    with StopSignals(echo_s=settings["echo_s"]) as stop:
        send(Signals.SIGINT)
        send(Signals.SIGINT)
        assert stop.received is Signals.SIGINT


def test_outside_the_main_thread_nothing_is_installed():
    """Python allows handlers only in the main thread, so a training in another thread has no handlers."""
    failed = []

    def enter():
        before = signal.getsignal(Signals.SIGTERM)
        with StopSignals(grace_s=1):
            failed.append(signal.getsignal(Signals.SIGTERM) is not before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failed == [False]


def test_exit_status():
    """A run that a signal ended has the exit status of a shell."""
    assert [exit_status(number) for number in (None, *STOP_SIGNALS)] == [0, 143, 130, 129, 138]


def script(text, **options):
    """Run a script in a separate process."""
    return subprocess.run(
        [sys.executable, "-c", dedent(text)], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_a_process_that_hangs_in_a_system_call_is_given_up():
    """`give_up` is called in time although the main thread never runs the handler, as in a collective without peers."""
    ended = script("""
        import ctypes, os, signal
        from signal import Signals
        from higgs_audio_trainer.training.signals import StopSignals

        def give_up(received):
            os.write(1, received.name.encode())
            os._exit(128 + received)

        with StopSignals(give_up, grace_s=0.05):
            signal.siginterrupt(signal.SIGTERM, False)  # the read below goes on after the signal
            read_end, _ = os.pipe()
            child = os.fork()
            if child == 0:
                os.kill(os.getppid(), signal.SIGTERM)
                os._exit(0)
            ctypes.CDLL(None).read(read_end, ctypes.create_string_buffer(1), 1)
    """)
    assert (ended.returncode, ended.stdout) == (143, "SIGTERM")


def test_a_process_that_ends_in_time_is_left_alone():
    """A signal has no later effect after an end in time, and the alarm's thread and pipe are gone."""
    ended = script("""
        import os, signal, threading
        from higgs_audio_trainer.training.signals import StopSignals

        with StopSignals(lambda received: os._exit(1), grace_s=30) as stop:
            before = len(os.listdir("/proc/self/fd"))
            os.kill(os.getpid(), signal.SIGTERM)
            [thread] = [thread for thread in threading.enumerate() if thread.name == "stop signals"]
        thread.join()
        assert len(os.listdir("/proc/self/fd")) == before - 2
        assert signal.set_wakeup_fd(-1) == -1
        print(stop.received.name)
    """)
    assert (ended.returncode, ended.stdout) == (0, "SIGTERM\n"), ended.stderr


def test_a_forked_child_obeys_its_parent():
    """A forked child ignores Ctrl-C, ends on SIGTERM, and starts no alarm of the parent."""
    ended = script("""
        import os, signal
        from higgs_audio_trainer.training.signals import StopSignals

        with StopSignals(lambda received: os._exit(1), grace_s=0) as stop:
            ready, go = os.pipe(), os.pipe()
            child = os.fork()
            if child == 0:
                os.write(ready[1], b"x")
                while True:
                    os.read(go[0], 1)
                    os.write(ready[1], b"x")
            os.read(ready[0], 1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                os.kill(child, number)
                os.write(go[1], b"x")
                os.read(ready[0], 1)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGTERM
            assert stop.received is None
        print("fine")
    """)
    assert (ended.returncode, ended.stdout) == (0, "fine\n"), ended.stderr


def hundred_rounds(number):
    """Return a script with a hundred loops of steps that emit, each stopped by the signal at a random time."""
    return f"""
        import os, random, signal, sys, threading, orjson
        from pathlib import Path
        from higgs_audio_trainer.pipeline.emit import Pipeline
        from higgs_audio_trainer.events import Checkpoint, RunEnd
        from higgs_audio_trainer.training.signals import StopSignals, exit_status
        from sinks import JsonlSink

        rng = random.Random(7)
        for round in range(100):
            path = Path(sys.argv[1]) / f"{{round}}.jsonl"
            at = rng.randint(0, 2000)
            child = os.fork()
            if child == 0:
                with StopSignals() as stop:
                    emit = Pipeline([("jsonl", JsonlSink(path))], run_id="r")
                    step = 0
                    while stop.received is None:
                        step += 1
                        emit(Checkpoint(step=step, path="x"))
                        if step == 1 + at % 40:
                            threading.Thread(target=os.kill, args=(os.getpid(), {int(number)})).start()
                    emit(RunEnd(reason=stop.received.name, step=step, events_written=emit.written,
                                events_lost=emit.lost, values_replaced=0, logging_ms_total=0))
                os._exit(exit_status(stop.received))
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 128 + {int(number)}, status
            events = [orjson.loads(line) for line in path.read_bytes().split(b"\\n")[:-1]]
            assert [event["seq"] for event in events] == list(range(len(events)))
            assert events[-1]["event"] == "run_end" and events[-1]["reason"] == "{number.name}"
            assert events[-1]["events_written"] == len(events) - 1 and events[-1]["events_lost"] == 0
        print("100 rounds")
    """


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_hundred_rounds_of_a_signal(tmp_path, number):
    """After a signal at a random time, the current step is finished, and the log is whole and ends with the reason."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", dedent(hundred_rounds(number)), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.stdout == "100 rounds\n", ended.stderr
