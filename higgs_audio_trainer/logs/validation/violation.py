"""Violations reported by `validate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "note"]
Kind = Literal[
    "line",  # a line without an event: torn or no JSON
    "damage",  # compressed data contradicts its checksum or ends too early, or the rest of a file is beyond a bound
    "schema",  # a field violates the schema
    "value",  # a value contradicts other values
    "member",  # a member name is repeated in a JSON object
    "unknown",  # an unknown event, version or field
    "duplicate",  # an event is repeated within a step
    "seq",  # seq decreases or repeats
    "gap",  # seq are missing
    "step",  # step decreases
    "run_start",
    "run_end",
    "run_id",
    "name",  # the file's name contradicts the rank or attempt of a line
]


@dataclass(frozen=True, slots=True)
class Violation:
    """A violation; prints as `file:line (byte offset): $.path: expected ..., got ...`.

    Attributes:
        where: Place of the line: `file:line (byte offset)`.
        path: Path of the value in the line, such as `$.first.labels[3]`; `$` is the line.
        expected: Description of the expected value.
        got: The value, or a description of the problem.
        kind: Kind of the check.
        severity: `error`, or `note` for an unusual but explained state.

    Example:
        >>> print(Violation("run.jsonl:3 (byte 512)", "$.step", "at least 20, the previous step", "10", "step"))
        run.jsonl:3 (byte 512): $.step: expected at least 20, the previous step, got 10
    """

    where: str
    path: str
    expected: str
    got: str
    kind: Kind
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: expected {self.expected}, got {self.got}"
