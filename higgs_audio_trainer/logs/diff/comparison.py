"""What a comparison of two logs found, as data. `diff` makes it, `reports` puts it into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Kinds of differences, in the order in which reports name them, in words.
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
    """Stands for a field that one side lacks."""

    def __repr__(self) -> str:
        return "no such field"


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class ComparedLog:
    """One of the two logs.

    Attributes:
        name: its path, or what it is.
        run_id: of its first event; None in a golden.
        events: how many were read.
        faults: lines that hold no event, or one that is not as its type says; the latter are compared all the same.
        first_step: lowest step of its events; None if none has one.
        last_step: highest step.
    """

    name: str
    run_id: str | None
    events: int
    faults: int
    first_step: int | None
    last_step: int | None


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of `run_start` that differs.

    Attributes:
        kind: `configuration` or `versions`.
        rank: whose.
        field: its name: `config.lr`, `versions.torch`, `seed`.
        expected: A's value, or `MISSING`.
        got: B's.
    """

    kind: str
    rank: Any
    field: str
    expected: Any
    got: Any


@dataclass(frozen=True, slots=True)
class Place:
    """Which event it is. What an event has not is None."""

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
    """A difference at its place.

    Attributes:
        kind: one of `KINDS`.
        place: the event.
        field: path of the value: `loss`, `first.predictions[2]`; "" for an event that one side lacks.
        position: of the slot in the sample's token sequence; None where the field is no slot.
        expected: A's value, or `MISSING`.
        got: B's.
        rtol: relative tolerance of a float, None for all else.
        atol: absolute one.
        only_predictions: of the sample's slots the predictions alone differ: positions, inputs and labels agree.
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
    """What was found of one field over all events.

    Attributes:
        event: name of the event.
        name: of the field, without indices: `first.predictions`.
        kind: the kind of its differences; `floats` for a float that agrees everywhere.
        differing: values that differ in this kind.
        values: floats that were compared; None for other fields, which are not counted where they agree.
        step: where it differs most; for what is no float, where it differs first.
        expected: A's value there.
        got: B's.
        residual: how many tolerances it is off there; None for what is no float, infinite without a tolerance.
        mean_residual: mean over all values of (got - expected) / tolerance: far from 0 is a one-sided shift.
        rms_residual: root of their mean square.
        drifts: every value is within tolerance, but the mean so far from 0 that chance does not explain it.
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
        """The field with its event: `train_step.loss`."""
        return f"{self.event}.{self.name}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found.

    Attributes:
        same: nothing differs.
        expected: side A.
        got: side B.
        joined: events that are in both, and of which something is compared.
        differing: how many of them differ, within what is compared.
        settings: fields of `run_start` that differ, the first 1,000.
        uncounted: names of settings that differ and are not compared, such as folders.
        first: the first divergence, by step, rank and event; None where nothing but settings or a drift differs.
        counts: how many differences there are of each kind that there is, in the order of `KINDS`: values; events where
            one side lacks them; fields that drift.
        lone: events that one side lacks, by `only_in_expected` or `only_in_got` and by name, the most frequent first.
        worst: fields that differ, one for each kind of difference in it, the worst first, at most 100.
        drifts: fields with a one-sided shift, those that drift most first.
        exact: floats were compared bit for bit.
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
