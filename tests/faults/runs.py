"""Real trainings in processes of their own, which a test can watch event by event, signal, starve and kill."""

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
    """Make a sink that tells the test, over a FIFO, what was emitted: `--sinks ...,tests.faults.runs:beacon:path=P`."""
    fd = os.open(path, os.O_WRONLY)

    def sink(record: Mapping[str, Any]) -> None:
        os.write(fd, f"{record['event']} {record.get('step', '')}\n".encode())

    return sink


def dies_once(context: Any, *, path: str) -> Callable[[Mapping[str, Any]], None]:
    """Make a sink that kills its process on rank 1, at step 3, if the file is not there yet."""

    def sink(record: Mapping[str, Any]) -> None:
        if context.rank == 1 and record.get("step") == 3 and not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return sink


def awaits_a_signal(context: Any, *, path: str) -> Callable[[Mapping[str, Any]], None]:
    """Make a sink that says over a FIFO, on rank 0 and at step 4, that it waits for a signal, and does."""
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
    """Make a sink that never comes back from a step."""

    def sink(record: Mapping[str, Any]) -> None:
        if (record["event"], record.get("step")) == ("train_step", int(step)):
            os.read(os.pipe()[0], 1)

    return sink


class Run:
    """One run of the command line in a process of its own.

    Attributes:
        process: the process.
        out: file of its standard output.
        err: file of its standard error.
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
        """Wait until an event was emitted, as `name step`; the sinks named before BEACON have it by then."""
        if self._events is None:
            self._events = self._fifo.open(encoding="utf-8")  # waits for the run to open its end
        for line in self._events:
            if line.strip() in wanted:
                return
        raise AssertionError(f"the run ended before {wanted}: {self.err.read_text()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end; return the exit status as a shell gives it."""
        return forks.wait(self.process, self.err)

    def close(self) -> None:
        """Leave nothing behind."""
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
    """Start the command line; it is killed at the end of the block if it still runs."""
    run = Run(folder, list(map(str, arguments)), before, environment)
    try:
        yield run
    finally:
        run.close()


def training(tiny: Any, clips: Path, output_dir: Path, **changes: object) -> list[str]:
    """Make the arguments of a short training on the bundled clips."""
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
    """Read one file of a run's log."""
    path = output_dir / "events" / f"rank{rank:05d}-attempt{attempt:03d}.jsonl"
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
