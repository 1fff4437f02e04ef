"""Result of a comparison, as data. `compare` makes the result, `reports` render the result as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Kinds of differences with their titles, in the order of the reports.
KINDS: Mapping[str, str] = {
    "configuration": "configuration",
    "versions": "versions",
    "only_in_expected": "events only in A",
    "only_in_got": "events only in B",
    "shapes": "shapes and lengths",
    "masks": "masks",
    "tokens": "token ids and positions",
    "floats": "floats beyond tolerance",
    "drift": "one-sided drifts",
    "other": "other fields",
}


class _Missing:
    """Placeholder for a field missing in a log."""

    def __repr__(self) -> str:
        return "no such field"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class ComparedLog:
    """A log of a comparison.

    Attributes:
        name: Path of the log, or "records".
        run_id: Run of the first event; None in a golden.
        events: Number of events.
        faults: Number of invalid lines. Invalid lines with an event name are compared all the same.
        first_step: Lowest step of the events; None without a step.
        last_step: Highest step.
    """

    name: str
    run_id: str | None
    events: int
    faults: int
    first_step: int | None
    last_step: int | None


@dataclass(frozen=True, slots=True)
class Setting:
    """A differing field of `run_start`.

    Attributes:
        kind: `configuration` or `versions`.
        rank: Rank of the `run_start`.
        field: Name of the field, such as `config.lr`, `versions.torch`, `seed`.
        expected: Value in log A, or `MISSING`.
        got: Value in log B, or `MISSING`.
    """

    kind: str
    rank: Any
    field: str
    expected: Any
    got: Any


@dataclass(frozen=True, slots=True)
class Place:
    """Identity of an event; missing fields are None."""

    event: str
    step: Any
    rank: Any
    split: Any
    modality: Any
    sample_id: Any
    fingerprint: Any
    codebook: Any


@dataclass(frozen=True, slots=True)
class Divergence:
    """A difference with its place.

    Attributes:
        kind: Kind of the difference, a key of `KINDS`.
        place: Identity of the event.
        field: Path of the value, such as `loss` or `first.predictions[2]`; "" for a missing event.
        position: Position of the slot in the sample's token sequence; None outside the slots.
        expected: Value in log A, or `MISSING`.
        got: Value in log B, or `MISSING`.
        rtol: Relative tolerance of a float, None for other types.
        atol: Absolute tolerance of a float, None for other types.
        only_predictions: Whether positions, inputs and labels of the sample agree, and only the model's outputs differ.
    """

    kind: str
    place: Place
    field: str
    position: int | None
    expected: Any
    got: Any
    rtol: float | None
    atol: float | None
    only_predictions: bool


@dataclass(frozen=True, slots=True)
class Field:
    """Differences of one field over all events.

    Attributes:
        event: Name of the event.
        name: Name of the field without indices, such as `first.predictions`.
        kind: Kind of the differences; `floats` for a float within tolerance.
        differing: Number of differing values of this kind.
        values: Number of compared floats; None for other types.
        step: Step of the largest difference of floats, or of the first difference of other types.
        expected: Value in log A at the step.
        got: Value in log B at the step.
        residual: Difference at the step in tolerances. None for other types than floats, infinite without a tolerance.
        mean_residual: Mean of (got - expected) / tolerance over all values. A mean far from 0 is a one-sided shift.
        rms_residual: Root mean square of the residuals.
        drifts: Whether all values are within tolerance, but the mean residual is significantly different from 0.
    """

    event: str
    name: str
    kind: str
    differing: int
    values: int | None
    step: Any
    expected: Any
    got: Any
    residual: float | None
    mean_residual: float | None
    rms_residual: float | None
    drifts: bool

    @property
    def path(self) -> str:
        """Name of the field with the event, such as `train_step.loss`."""
        return f"{self.event}.{self.name}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences between two logs.

    Attributes:
        same: Whether the logs have no difference.
        expected: Log A.
        got: Log B.
        joined: Number of compared events in both logs.
        differing: Number of joined events with a difference.
        settings: Differing fields of `run_start`, the first 1,000.
        uncounted: Names of differing settings outside the comparison, such as folders.
        first: First divergence by step, rank and event. None if only settings or drifts differ.
        counts: Number of differences by kind, in the order of `KINDS`, without zeros. Counts values, missing events and
            drifting fields.
        lone: Number of missing events by `only_in_expected` or `only_in_got` and by name, most frequent first.
        worst: Differing fields, a `Field` for each kind of difference, worst first, at most 100.
        drifts: Fields with a one-sided drift, largest drift first.
        exact: Whether floats were compared bit for bit.

    Example:
        >>> from higgs_audio_trainer import diff
        >>> step = {"event": "train_step", "v": 1, "rank": 0, "step": 10, "loss": 2.5}
        >>> comparison = diff([step], [step | {"loss": 2.6}])
        >>> comparison.same, comparison.first.field, comparison.first.place.step
        (False, 'loss', 10)
    """

    same: bool
    expected: ComparedLog
    got: ComparedLog
    joined: int
    differing: int
    settings: tuple[Setting, ...]
    uncounted: tuple[str, ...]
    first: Divergence | None
    counts: Mapping[str, int]
    lone: Mapping[str, Mapping[str, int]]
    worst: tuple[Field, ...]
    drifts: tuple[Field, ...]
    exact: bool
