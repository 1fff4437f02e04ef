"""The contract of a sink, a callable that takes a record. Imports nothing of the package.

A record is a mapping of builtins. The files in `schemas/` describe the record of each event. The outer mapping belongs
to the sink and may be changed. Nested values are shared with the next sink and must not be changed.

A sink with a resource may have a method `close()`. The pipeline calls `close` once after the last record. A sink that
accepts a record and may lose the record later reports the number of such records in an attribute `dropped`.

A sink that writes lines of JSON may declare the keyword `json_line: bytes | None = None`. The pipeline then passes the
record as a line, with the newline, or None for a record that the pipeline has not encoded. The line stands for the
record as delivered, so a wrapper that changes the record must not pass the line on.

Example:
    >>> losses: list[float] = []
    >>> def record_loss(record: Record) -> None:
    ...     if record["event"] == "train_step":
    ...         losses.append(record["loss"])
    >>> record_loss({"event": "train_step", "v": 1, "step": 20, "loss": 4.13})
    >>> losses
    [4.13]

    >>> def make(context: SinkContext, *, name: str = "losses") -> Sink:  # a factory: --sinks my_module:make:name=all
    ...     print(f"rank {context.rank} makes {name}")
    ...     return record_loss
    >>> sink = make(SinkContext("out", "a-run", rank=0, attempt=0), name="all")
    rank 0 makes all
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

#: One event: the envelope and the payload as builtins.
Record = Mapping[str, Any]


class Sink(Protocol):
    """A callable that takes a record.

    Example:
        >>> records: list[Record] = []
        >>> sink: Sink = records.append
        >>> sink({"event": "checkpoint", "path": "checkpoint-20"})
        >>> records[0]["path"]
        'checkpoint-20'
    """

    def __call__(self, record: Record, /) -> None:
        """Take a record.

        Raises:
            Exception: The record is lost. The pipeline counts the record and training continues.
        """


class SharedScreen(Protocol):
    """The terminal of a run, shared by records, notices and the progress bar. No method waits or raises."""

    @property
    def out(self) -> TextIO | None:
        """Stream of the records; None if standard output is closed."""

    @property
    def dropped(self) -> int:
        """Number of texts that no reader accepted in time."""

    def show(self, text: str) -> None:
        """Print the lines of a record."""

    def note(self, text: str) -> None:
        """Print a notice."""

    def close(self) -> None:
        """Wait, for a bounded time, until all texts are printed."""


def print_on_stderr(text: str) -> None:
    """Print a line on stderr and ignore a closed or broken stderr.

    The line bypasses Python's buffer. A broken stderr would otherwise fail the flush at exit, and the exit status
    would be 120.
    """
    with suppress(Exception):
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        line = f"{text}\n".encode(encoding, "backslashreplace")
        raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
        if raw is None:  # the stream of a notebook or a test
            sys.stderr.write(line.decode(encoding))
        else:
            raw.write(line)


@dataclass(frozen=True, slots=True)
class SinkContext:
    """Facts about the run for the factory of a sink.

    Attributes:
        output_dir: Output directory of the run.
        run_id: Name of the run, the same in all ranks and attempts.
        rank: Global rank of this process.
        attempt: 0 for the first attempt, one more for each resume.
        screen: Terminal that the run shares with its progress bar; None if a sink has to open a screen.
        say: Prints a line for a person, such as the path of the next log file. Never raises.

    Example:
        >>> context = SinkContext("out", "20260102-030405-abcd", rank=0, attempt=1)
        >>> f"{context.output_dir}/curves-attempt{context.attempt:03d}.csv"
        'out/curves-attempt001.csv'
    """

    output_dir: str
    run_id: str
    rank: int
    attempt: int
    screen: SharedScreen | None = None
    say: Callable[[str], None] = print_on_stderr


#: Makes the sink of one rank and attempt from a context and the options of a specification. The options are keyword
#: parameters, and the values are strings. Raises `SinkError` where an option is wrong or the sink cannot be set up.
SinkFactory = Callable[..., Sink]


class SinkError(Exception):
    """A sink cannot be set up. The message names the option, the expected value and the next action.

    Example:
        >>> raise SinkError("--sinks: csv: limit: expected a number, got 'many'")
        Traceback (most recent call last):
        sinks.protocol.SinkError: --sinks: csv: limit: expected a number, got 'many'
    """
