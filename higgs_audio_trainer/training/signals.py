"""Signals that ask a run to stop: noted when they come, obeyed at the next step boundary.

Knows neither torch nor events. `stopping.py` turns what was noted here into a checkpoint and the end of the training.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from signal import Signals
from types import FrameType, TracebackType
from typing import Any, Self

_EXIT_OF_SIGNAL = 128
STOP_SIGNALS = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGHUP, Signals.SIGUSR1)

# torchrun gets the Ctrl-C of a terminal besides its workers, and sends it to them once more.
_TORCHRUN_ECHO_S = 2.0
# torchrun kills 30 s after the signal that it forwarded; the last line of the log has to be out before.
_TORCHRUN_GRACE_S = 25.0


class StopSignals:
    """While entered, notes the first stop signal of this process in `received`.

    Handlers that were there before are called too. A signal that was ignored (`nohup`) stays ignored. A second SIGINT
    raises KeyboardInterrupt. Outside the main thread nothing is installed: Python allows it there alone.

    Args:
        give_up: called from a thread of its own when `grace_s` seconds after a signal the block was not left; it
            is to end the process.
        grace_s: see there; None: there is all the time in the world.
        echo_s: a second SIGINT within so many seconds is the first one, heard twice.
    """

    def __init__(
        self,
        give_up: Callable[[Signals], None] = lambda _signal: None,
        *,
        grace_s: float | None = None,
        echo_s: float = 0.0,
    ) -> None:
        self.received: Signals | None = None
        self._give_up = give_up
        self._grace_s = grace_s
        self._echo_s = echo_s
        self._interrupted_at: float | None = None
        self._previous: dict[Signals, Any] = {}
        self._pid = os.getpid()
        self._alarm: _Alarm | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        if self._grace_s is not None:
            self._alarm = _Alarm(self._grace_s, self._give_up, self._previous)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._alarm is not None:
            self._alarm.close()
        for number, handler in self._previous.items():
            # None: it was installed by something other than Python, which cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            _end_forked_child(number)
            return
        if number == Signals.SIGINT:
            now, before = time.monotonic(), self._interrupted_at
            if before is not None and now - before >= self._echo_s:
                raise KeyboardInterrupt
            self._interrupted_at = now if before is None else before
        self.received = self.received or Signals(number)
        earlier = self._previous.get(Signals(number))
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)


def _end_forked_child(number: int) -> None:
    """Let SIGTERM end a child that inherited the handler; the others are for its parent to obey."""
    if number == Signals.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


class _Alarm:
    """Calls `give_up` if it was not closed within `grace_s` of a signal, though the main thread hangs in a collective.

    Python runs handlers in the main thread alone. The interpreter's wake-up descriptor is written to at once, so that
    a thread that reads it learns of the signal whatever the main thread is doing.
    """

    def __init__(self, grace_s: float, give_up: Callable[[Signals], None], watched: Mapping[Signals, Any]) -> None:
        self._grace_s = grace_s
        self._give_up = give_up
        self._watched = frozenset(watched)
        self._closed = threading.Event()
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._previous = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        _RUNNING.add(self)
        threading.Thread(target=self._watch, name="stop signals", daemon=True).start()

    def _watch(self) -> None:
        while number := os.read(self._read_end, 1):
            if number[0] in self._watched and not self._closed.wait(self._grace_s):
                self._give_up(Signals(number[0]))
            if self._closed.is_set():
                break
        os.close(self._read_end)

    def close(self) -> None:
        _RUNNING.discard(self)
        self._closed.set()
        signal.set_wakeup_fd(self._previous)
        os.close(self._write_end)


_RUNNING: set[_Alarm] = set()


def _forget_alarms() -> None:
    if _RUNNING:  # a child's signals are not its parent's
        _RUNNING.clear()
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_alarms)


def under_torchrun(environment: Mapping[str, str]) -> dict[str, float]:
    """Return the settings of `StopSignals` that torchrun asks for; none where it did not start this process."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return {}
    return {"grace_s": _TORCHRUN_GRACE_S, "echo_s": _TORCHRUN_ECHO_S}


class Diagnosed(Enum):
    """What stops a run beside a signal: a check found an error, and --diagnose fail was given. With its exit status."""

    diagnosis = 3


StopReason = Signals | Diagnosed


def exit_status(stopped_by: StopReason | None) -> int:
    """Return the exit status of a run: 0, 3 after a diagnosis, what shells give for a process that a signal ended."""
    if isinstance(stopped_by, Diagnosed):
        return stopped_by.value
    return 0 if stopped_by is None else _EXIT_OF_SIGNAL + stopped_by


def leave_stop_signals_to_the_parent() -> None:
    """Make a data loader's worker deaf to signals that a terminal or a scheduler sends to the whole process group.

    Workers that die of them would take the batch along that the step in progress is waiting for. A SIGTERM of the
    parent's own still ends them: that is how it gets rid of workers that hang. To be called by the worker.
    """
    for number in (Signals.SIGINT, Signals.SIGHUP, Signals.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    deaf = set(STOP_SIGNALS)
    if hasattr(signal, "sigwaitinfo"):  # tells the sender; macOS lacks it, and there SIGTERM goes on ending workers
        signal.pthread_sigmask(signal.SIG_BLOCK, {Signals.SIGTERM})
        deaf.remove(Signals.SIGTERM)
        import multiprocessing

        parent = multiprocessing.parent_process()
        assert parent is not None, "a worker has a parent; with a fork server it is not the process that forked it"
        threading.Thread(target=_end_on_request, args=(parent.pid,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, deaf)


def _end_on_request(parent: int | None) -> None:
    while signal.sigwaitinfo({Signals.SIGTERM}).si_pid != parent:
        pass
    os._exit(exit_status(Signals.SIGTERM))


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Hold stop signals back while workers are started: till they are deaf, what they inherit would end them."""
    import multiprocessing

    if multiprocessing.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()  # started within, it would hold them back from all that it ever forks
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
