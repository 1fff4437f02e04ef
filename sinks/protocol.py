"""The contract of a sink: a callable that takes one record.

A record is a mapping of builtins, described by the files in `schemas/`. It is the sink's own to change, but for the
values nested in it, which the next sink gets too. A sink that holds a resource may have a method `close()`, called
once after the last record. A sink that takes records and may lose some later says how many in an attribute `dropped`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sinks.terminal.screen import Screen, say_on_stderr

Record = Mapping[str, Any]
Sink = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a factory may know of the run. A factory is called as `factory(context, **options) -> Sink`.

    Attributes:
        output_dir: the run's output directory.
        run_id: identifies the run, the same in all ranks and attempts.
        rank: global rank of this process.
        attempt: 0 at first, one more at each resume.
        screen: the terminal that the run shares, with its progress bar; None: a sink that needs one makes its own.
        say: tells a person one line, such as that a log goes on in another file; never raises.
    """

    output_dir: str
    run_id: str
    rank: int
    attempt: int
    screen: Screen | None = None
    say: Callable[[str], None] = say_on_stderr


Factory = Callable[..., Sink]


class SinkError(Exception):
    """A sink cannot be set up as asked; the message says what to do."""
