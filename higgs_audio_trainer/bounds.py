"""Bounds of what is read from files of others. Honest files never meet a bound, and a hostile file costs little.

Every bound is told with its place. `no_limits` lifts the bounds of size for a block, and `--no-limits` for a command.
The depth of nesting and the size of integers stay bounded, because parsers, columns and terminals have such bounds too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any

#: Nested lists and objects of a line, a manifest entry or a document. The writer of logs nests at most 65 deep.
MAX_DEPTH = 100
#: Integers of a log or a YAML file: what 64 bits hold, with or without a sign. The writer writes no others.
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
#: Largest integer of a column of a tracker.
MAX_SIGNED_INTEGER = 2**63 - 1
#: Digits of an integer in a JSON file: what a float holds. Checkpoints have integers beyond 64 bits, such as the
#: model_max_length 1000000000000000019884624838656.
MAX_DIGITS = 308
#: Bytes of a JSON file. A trainer_state.json has 160 to 350 for each logged step, the index of a large model 5 MB, and
#: a tokenizer.json up to 35 MB.
MAX_JSON_BYTES = 2**28
#: Commas and opening brackets of a JSON file. Each stands for a value, which takes up to 100 bytes of memory. A
#: trainer_state.json has 5 for each logged step, a tokenizer.json up to 2 million.
MAX_JSON_VALUES = 8_000_000
#: Values of a YAML file, with each alias counted as often as its values appear. A bomb of 9 aliases has a billion.
MAX_YAML_VALUES = 100_000
#: Bytes of a YAML file. A configuration has less than a hundredth, and the parser needs a second for this size.
MAX_YAML_BYTES = 2**18
#: Bytes of a line of a manifest, which may hold a recording, of a manifest from a pipe, and of one from a device.
MAX_ENTRY_BYTES, MAX_PIPED_BYTES, MAX_DEVICE_BYTES = 2**26, 2**30, 2**20
#: Values of a line of a manifest, counted like `MAX_JSON_VALUES`.
MAX_ENTRY_VALUES = 2_000_000
#: Bytes and lines of a file of texts to speak, which would take days.
MAX_TEXTS_BYTES, MAX_TEXTS = 2**24, 100_000
#: Decompressed bytes for each compressed byte, beyond a floor. Logs of this package have 10 to 15, and up to 130 where
#: losses are NaN and the samples repeat. The floor is what every reader reads in seconds, whatever the lines are.
MAX_RATIO, RATIO_FLOOR_BYTES = 200, 2**22
#: The same floor for manifests, whose lines may repeat a system prompt of kilobytes: 20,000 of them grow 1,000-fold.
MANIFEST_FLOOR_BYTES = MAX_ENTRY_BYTES
#: Lines of a manifest for each compressed byte, beyond a floor. Lines that differ in a number alone have 1.
MAX_LINES_PER_BYTE, LINES_FLOOR = 16, 100_000
#: Logarithm of the largest window of zstd. The zstd command decodes 128 MiB too, without a flag for more.
MAX_WINDOW_LOG, LARGEST_WINDOW_LOG = 27, 31
#: Empty lines in a row. The writer writes none, and a crash leaves null characters.
MAX_EMPTY_LINES = 10_000
#: Lines without an event, invalid or empty: at most so many for each event, beyond a floor. A disk that was full or
#: damaged leaves a few, and a program that prints beside its events has a hundred between two events.
MAX_INVALID_PER_EVENT, MAX_INVALID_LINES = 100, 20_000
#: Codes of a file: 11 hours of 8 codebooks at 25 Hz. A sparse file of a few bytes can have any number.
MAX_CODES = 2**23
#: Bytes of the header of a file of codes. One tensor needs a hundred.
MAX_CODES_HEADER_BYTES = 2**16
FLAG = "--no-limits"
#: Way to read beyond the bounds in force, for messages; empty where the bounds are lifted.
_in_force = ContextVar("bounds", default="with higgs_audio_trainer.no_limits(): reads on")


class BoundError(Exception):
    """Data beyond a bound.

    Attributes:
        expected: Description of the bound.
        got: Description of the data.
    """

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got


def are_in_force() -> bool:
    """Return True if the bounds of size are in force."""
    return bool(_in_force.get())


def way_out() -> str:
    """Return the way to read beyond a bound, for messages: the flag of the command, or the function of the library."""
    return _in_force.get()


@contextmanager
def no_limits() -> Iterator[None]:
    """Lift the bounds of what is read from logs and manifests, for a block.

    The bounds protect from files that grow without bound when they are decompressed, and from endless empty or invalid
    lines. `read` and `validate` read during the iteration, which belongs into the block. Each thread needs its own
    block.

    Example:
        >>> with no_limits():
        ...     are_in_force()
        False
        >>> are_in_force()
        True
    """
    token = _in_force.set("")
    try:
        yield
    finally:
        _in_force.reset(token)


def lift() -> None:
    """Lift the bounds until the end of the innermost `of_command` block."""
    _in_force.set("")


@contextmanager
def of_command() -> Iterator[None]:
    """Put the bounds in force for a command. Messages then name the flag that lifts the bounds."""
    token = _in_force.set(f"{FLAG} reads on")
    try:
        yield
    finally:
        _in_force.reset(token)


def is_too_deep(value: Any) -> bool:
    """Return True if lists and objects of JSON are nested deeper than `MAX_DEPTH`. The check itself does not recurse.

    Example:
        >>> is_too_deep({"labels": [[1], [2]]})
        False
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        items = chain.from_iterable(item.values() if isinstance(item, dict) else item for item in level)
        level = [item for item in items if isinstance(item, (dict, list))]
        if not level:
            return False
    return True
