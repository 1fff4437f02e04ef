"""Signals that ask a run to stop. They are noted on arrival and take effect at the next step boundary.

This module knows neither torch nor events. `stopping.py` saves the checkpoint and ends the training.
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

from higgs_audio_trainer.phases import EVALUATING, FINISHING, SAVING, SPEAKING

_EXIT_OF_SIGNAL = 128
STOP_SIGNALS = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGHUP, Signals.SIGUSR1)

# The terminal sends Ctrl-C to torchrun and its workers. torchrun then sends the same signal to the workers once more.
_TORCHRUN_ECHO_S = 2.0
# torchrun kills its workers 30 s after a forwarded signal. The last line of the log is written before.
_TORCHRUN_GRACE_S = 25.0


class StopSignals:
    """A context that notes the first stop signal of this process in `received`.

    Earlier handlers are called too. An ignored signal (`nohup`) stays ignored. A second SIGINT raises
    KeyboardInterrupt. Outside the main thread nothing is installed, since Python allows handlers in the main thread
    alone.

    Args:
        give_up: Ends the process. Called from a separate thread if the context is still entered `grace_s` seconds
            after a signal.
        answer: Tells a person what the first signal does. Called inside the handler.
        grace_s: Time limit after a signal; seconds. None for no limit.
        echo_s: A second SIGINT within this time counts as an echo of the first; seconds.
    """

    def __init__(
        self,
        give_up: Callable[[Signals], None] = lambda _signal: None,
        *,
        answer: Callable[[Signals], None] = lambda _signal: None,
        grace_s: float | None = None,
        echo_s: float = 0.0,
    ) -> None:
        self.received: Signals | None = None
        self._give_up = give_up
        self._answer = answer
        self._grace_s = grace_s
        self._echo_s = echo_s
        self._interrupted_at: float | None = None
        self._previous: dict[Signals, Any] = {}
        self._pid = os.getpid()
        self._timer: _GraceTimer | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        if self._grace_s is not None:
            self._timer = _GraceTimer(self._grace_s, self._give_up, self._previous)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.close()
        for number, handler in self._previous.items():
            # None stands for a handler of C code, which Python cannot install again.
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
        if self.received is None:
            self.received = Signals(number)
            self._answer(self.received)
        earlier = self._previous.get(Signals(number))
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)


def answer_to(received: Signals, phase: str | None) -> str:
    """Return the line that answers a stop signal.

    Args:
        received: The signal.
        phase: Name of the phase in progress; None for an optimizer step.

    Example:
        >>> answer_to(Signals.SIGINT, None)
        'Stopping after this step; a checkpoint will be saved. Ctrl-C again ends now without one.'
        >>> answer_to(Signals.SIGTERM, EVALUATING)
        'SIGTERM: stopping, and the next start repeats the evaluation; a checkpoint will be saved.'
    """
    what = _DONE_IN.get(phase, "stopping after this step; a checkpoint will be saved.")
    if received is not Signals.SIGINT:
        return f"{received.name}: {what}"
    return f"{what[0].upper()}{what[1:]} Ctrl-C again ends now without one."


_DONE_IN: Mapping[str | None, str] = {
    EVALUATING: "stopping, and the next start repeats the evaluation; a checkpoint will be saved.",
    SPEAKING: "stopping without the rest of the speech; a checkpoint will be saved.",
    SAVING: "stopping after the next step; one more checkpoint will be saved.",
    FINISHING: "the training is complete, and its result is being saved.",
}


def _end_forked_child(number: int) -> None:
    """Let SIGTERM end a forked child that inherited the handler. The parent obeys the other signals."""
    if number == Signals.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


class _GraceTimer:
    """Calls `give_up` unless closed within `grace_s` seconds after a signal, even if the main thread hangs.

    Python runs signal handlers in the main thread alone, which may wait in a collective. The interpreter writes each
    signal to its wake-up descriptor at once, so a thread that reads the descriptor gets the signal in any case.
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


_RUNNING: set[_GraceTimer] = set()


def _forget_timers() -> None:
    if _RUNNING:  # signals of a child must not start the timer of its parent
        _RUNNING.clear()
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_timers)


def under_torchrun(environment: Mapping[str, str]) -> dict[str, float]:
    """Return the settings of `StopSignals` for a process under torchrun, and no settings for any other process."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return {}
    return {"grace_s": _TORCHRUN_GRACE_S, "echo_s": _TORCHRUN_ECHO_S}


class Diagnosed(Enum):
    """The reason of a stop by `--diagnose fail`. The value is the exit status."""

    diagnosis = 3


StopReason = Signals | Diagnosed


def exit_status(stopped_by: StopReason | None) -> int:
    """Return the exit status of a run: 0, 3 after a diagnosis, or 128 + signal.

    Example:
        >>> exit_status(None), exit_status(Diagnosed.diagnosis), exit_status(Signals.SIGTERM)
        (0, 3, 143)
    """
    if isinstance(stopped_by, Diagnosed):
        return stopped_by.value
    return 0 if stopped_by is None else _EXIT_OF_SIGNAL + stopped_by


def leave_stop_signals_to_the_parent() -> None:
    """Ignore, in a data loader's worker, the stop signals that a whole process group gets.

    A terminal or a scheduler sends a signal to all processes of a group. A worker that died of the signal would take
    along the batch that the step in progress waits for. SIGTERM from the parent still ends the worker, since a
    DataLoader ends hanging workers that way.
    """
    for number in (Signals.SIGINT, Signals.SIGHUP, Signals.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    ignored = set(STOP_SIGNALS)
    if hasattr(signal, "sigwaitinfo"):  # names the sender; macOS lacks the call, so SIGTERM ends workers there
        signal.pthread_sigmask(signal.SIG_BLOCK, {Signals.SIGTERM})
        ignored.remove(Signals.SIGTERM)
        import multiprocessing

        parent = multiprocessing.parent_process()
        assert parent is not None, "a worker has a parent, which a fork server is not"
        threading.Thread(target=_end_on_request, args=(parent.pid,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)


def _end_on_request(parent: int | None) -> None:
    while signal.sigwaitinfo({Signals.SIGTERM}).si_pid != parent:
        pass
    os._exit(exit_status(Signals.SIGTERM))


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Hold stop signals back while workers start. A worker ignores signals only after its start."""
    import multiprocessing

    if multiprocessing.get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()  # a server started in this block would block the signals in all its children
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
