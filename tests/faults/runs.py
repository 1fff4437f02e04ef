"""Real trainings in separate processes, which a test follows event by event, signals, slows down and kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from sinks.null import discard
from tests import forks


def beacon(context: Any, *, path: str) -> Callable[[Mapping[str, Any]], None]:
    """Return a sink that writes each emitted event to the test's FIFO.

    Usage: `--sinks ...,tests.faults.runs:beacon:path=P`.
    """
    fd = os.open(path, os.O_WRONLY)

    def sink(record: Mapping[str, Any]) -> None:
        os.write(fd, f"{record['event']} {record.get('step', '')}\n".encode())

    return sink


def dies_once(context: Any, *, path: str) -> Callable[[Mapping[str, Any]], None]:
    """Return a sink that kills rank 1 at step 3, unless the file `path` exists."""

    def sink(record: Mapping[str, Any]) -> None:
        if context.rank == 1 and record.get("step") == 3 and not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return sink


def awaits_a_signal(context: Any, *, path: str) -> Callable[[Mapping[str, Any]], None]:
    """Return a sink that announces over a FIFO, on rank 0 and at step 4, the wait for a signal, and then waits."""
    if context.rank != 0:
        return discard

    def sink(record: Mapping[str, Any]) -> None:
        if (record["event"], record.get("step")) == ("train_step", 4):
            came, comes = os.pipe()
            os.set_blocking(comes, False)
            signal.set_wakeup_fd(comes)
            Path(path).write_text("waiting")
            os.read(came, 1)
            signal.set_wakeup_fd(-1)

    return sink


def stalls(_context: Any, *, step: str) -> Callable[[Mapping[str, Any]], None]:
    """Return a sink that blocks forever at a step."""

    def sink(record: Mapping[str, Any]) -> None:
        if (record["event"], record.get("step")) == ("train_step", int(step)):
            os.read(os.pipe()[0], 1)

    return sink


class Run:
    """Run of the command line in a separate process.

    Attributes:
        process: Process of the run.
        out: File of the run's standard output.
        err: File of the run's standard error.
    """

    def __init__(
        self, folder: Path, arguments: list[str], before: Callable[[], None] | None, environment: dict
    ) -> None:
        number = len(list(folder.glob("run-*.out")))
        self.out, self.err = folder / f"run-{number}.out", folder / f"run-{number}.err"
        self._fifo = folder / f"run-{number}.fifo"
        os.mkfifo(self._fifo)
        arguments = [
            argument.replace("BEACON", f"tests.faults.runs:beacon:path={self._fifo}") for argument in arguments
        ]
        self.process = forks.start(
            _run_cli, arguments, before, out=self.out, err=self.err, environment=os.environ | environment
        )
        self._events = None

    def wait_for(self, *wanted: str) -> None:
        """Wait for an emitted event, given as `name step`. Sinks listed before BEACON have the event by then."""
        if self._events is None:
            self._events = self._fifo.open(encoding="utf-8")  # waits until the run opens the FIFO
        for line in self._events:
            if line.strip() in wanted:
                return
        raise AssertionError(f"the run ended before {wanted}: {self.err.read_text()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end and return the exit status as a shell reports the status."""
        return forks.wait(self.process, self.err)

    def close(self) -> None:
        """End the process and close the FIFO."""
        forks.end(self.process)
        if self._events is not None:
            self._events.close()


def _run_cli(arguments: list[str], before: Callable[[], None] | None) -> None:
    if before is not None:
        before()
    forks.command(*arguments)


@contextmanager
def running(
    folder: Path, *arguments: object, before: Callable[[], None] | None = None, **environment: str
) -> Iterator[Run]:
    """Start the command line, and kill the process at the end of the block if the process still runs."""
    run = Run(folder, list(map(str, arguments)), before, environment)
    try:
        yield run
    finally:
        run.close()


def training(tiny: Any, clips: Path, output_dir: Path, **changes: object) -> list[str]:
    """Return the arguments of a short training on the bundled clips."""
    options = {
        "base_ckpt": tiny.model_dir,
        "audio_tokenizer": tiny.codec_dir,
        "train_manifest": clips,
        "output_dir": output_dir,
        "batch_size": 2,
        "grad_accum": 2,
        "max_steps": 6,
        "log_steps": 1,
        "save_steps": 1000,
        "seed": 0,
        "sinks": "jsonl,BEACON",
    } | changes
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def lines(output_dir: Path, attempt: int = 0, rank: int = 0) -> list[dict[str, Any]]:
    """Return the events in a file of a run's log."""
    path = output_dir / "events" / f"rank{rank:05d}-attempt{attempt:03d}.jsonl"
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
