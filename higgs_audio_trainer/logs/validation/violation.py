"""What `validate` finds: where, what was expected, what there is, and how bad it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "note"]
Kind = Literal[
    "line",  # no event can be read from it: torn, no JSON
    "schema",  # a field is not as the schema says
    "value",  # a value contradicts others of its line
    "member",  # a JSON object names a member twice
    "unknown",  # an event, a version or a field that this version does not know
    "duplicate",  # two lines of one step say what one may say
    "seq",  # goes back, or repeats itself
    "gap",  # seq that are not there
    "step",  # goes back
    "run_start",
    "run_end",
    "run_id",
    "name",  # of the file: its rank and attempt are not those of the line
]


@dataclass(frozen=True, slots=True)
class Violation:
    """One finding; prints as `file:line (byte offset): $.path: expected ..., got ...`.

    Attributes:
        where: `file:line (byte offset)`.
        path: of the value in the line, `$.first.labels[3]`; `$` is the line.
        expected: what belongs there.
        got: what there is.
        kind: which check found it.
        severity: `error`, or `note` for what is out of the ordinary and accounted for.
    """

    where: str
    path: str
    expected: str
    got: str
    kind: Kind
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: expected {self.expected}, got {self.got}"
