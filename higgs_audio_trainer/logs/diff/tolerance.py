"""Tolerances for the comparison of floats, by field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple

from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EVENTS, VOLATILE_FIELDS, Window
from higgs_audio_trainer.logs.diff.windows import WINDOWS


class Tolerance(NamedTuple):
    """Relative and absolute tolerance. Floats agree if |got - expected| <= atol + rtol * |expected|."""

    rtol: float
    atol: float


EXACT = Tolerance(0.0, 0.0)
USUAL = Tolerance(1e-4, 0.0)  # for unknown fields and the evidence of a diagnosis
_LOSS = Tolerance(1e-4, 1e-6)
_COUNTED = Tolerance(1e-6, 0.0)  # quotients of counts and schedules, with the same arithmetic in each run
_PROBABILITY = Tolerance(1e-4, 1e-5)
_RANK = Tolerance(0.05, 2.0)  # rounding decides the rank among nearly equal logits
DEFAULTS: Mapping[str, Tolerance] = {
    "loss": _LOSS,
    "text_loss": _LOSS,
    "audio_loss": _LOSS,
    "audio_loss_per_codebook": _LOSS,
    "grad_norm": _LOSS,
    "learning_rate": _COUNTED,
    "epoch": _COUNTED,
    "accuracy": _COUNTED,
    "text_accuracy": _COUNTED,
    "audio_accuracy_per_codebook": _COUNTED,
    "unigram_accuracy": _COUNTED,
    "unigram_loss": _COUNTED,
    "top_prediction_share": _COUNTED,
    "offset_surplus": Tolerance(1e-3, 1e-2),  # a sum of probabilities minus a count, about 0
    "stop_probability": _PROBABILITY,
    "label_probabilities": _PROBABILITY,
    "stop_rank": _RANK,
    "label_ranks": _RANK,
}
_RANKS = frozenset(name for name, tolerance in DEFAULTS.items() if tolerance is _RANK)  # integers compared as floats


class Tolerances:
    """Tolerances of all fields.

    Args:
        rtol: Relative tolerance by field, by `event.field`, or for all fields (key ""). The most specific key counts.
            Fields without a key use `DEFAULTS`.
        atol: Absolute tolerance, in the same form.
        exact: Floats must be equal bit for bit.

    Raises:
        UserError: A field has no floats, or a tolerance is negative or not a number.
    """

    def __init__(self, rtol: Mapping[str, float], atol: Mapping[str, float], *, exact: bool) -> None:
        for flag, given in (("--rtol", rtol), ("--atol", atol)):
            for field, value in given.items():
                _check(flag, field, value)
        if exact and (rtol or atol):
            raise UserError("--exact: expected no --rtol or --atol, got --exact and a tolerance. Leave one out")
        self.exact = exact
        self._rtol, self._atol = rtol, atol

    def of(self, event: str, field: str) -> Tolerance:
        """Return the tolerance of an event's field.

        Example:
            >>> Tolerances({"": 0.01, "train_step.loss": 0.1}, {}, exact=False).of("train_step", "loss")
            Tolerance(rtol=0.1, atol=1e-06)
        """
        if self.exact:
            return EXACT
        usual = DEFAULTS.get(field, USUAL)
        return Tolerance(
            _given(self._rtol, event, field, usual.rtol),
            _given(self._atol, event, field, usual.atol),
        )


def _given(tolerances: Mapping[str, float], event: str, field: str, usual: float) -> float:
    if not tolerances:
        return usual
    names = (f"{event}.{field}", field, "")
    return next((tolerances[name] for name in names if name in tolerances), usual)


def residual(expected: float, got: float, tolerance: Tolerance) -> float:
    """Return the signed difference in tolerances, infinite for a difference without a tolerance.

    Example:
        >>> residual(2.0, 2.5, Tolerance(rtol=0.0, atol=0.25))
        2.0
    """
    off = got - expected
    if off == 0:
        return 0.0
    scale = tolerance.atol + tolerance.rtol * abs(expected)
    return off / scale if scale else math.copysign(math.inf, off)


def same_bits(expected: float, got: float) -> bool:
    """Return True if two floats are equal, including the sign of zero. 1 and 1.0 are equal.

    Example:
        >>> same_bits(1, 1.0), same_bits(0.0, -0.0)
        (True, False)
    """
    return expected == got and math.copysign(1.0, expected) == math.copysign(1.0, got)


@cache
def float_fields(event: str) -> frozenset[str]:
    """Return the fields of an event with floats or ranks, lists included; empty for an unknown event.

    Example:
        >>> "audio_loss_per_codebook" in float_fields("train_step"), "step" in float_fields("train_step")
        (True, False)
    """
    cls = EVENTS.get(event)
    return _float_fields(cls) if cls else frozenset()


@cache
def window_float_fields() -> frozenset[str]:
    """Return the fields of a window with floats or ranks."""
    return _float_fields(Window)


def _float_fields(cls: type[Any]) -> frozenset[str]:
    # The text of an annotation tells the floats. The evaluation of all annotations takes longer than a small log.
    return frozenset(
        item.name
        for item in fields(cls)
        if item.name not in VOLATILE_FIELDS
        and (item.name in _RANKS or str(item.type).startswith(("float", "tuple[float")))
    )


def field_with_tolerance(path: Sequence[str | int]) -> str:
    """Return the field of a path for the tolerance.

    Example:
        >>> field_with_tolerance(("first", "label_ranks", 2)), field_with_tolerance(("loss",))
        ('label_ranks', 'loss')
    """
    return str(path[1] if len(path) > 1 and path[0] in WINDOWS else path[0])


def _check(flag: str, field: str, value: float) -> None:
    by_event = {event: float_fields(event) for event in EVENTS}
    by_event["diagnosis"] |= {"evidence"}
    by_event["prediction_sample"] |= window_float_fields()
    known = frozenset().union(*by_event.values())
    of_events = {f"{event}.{name}" for event, names in by_event.items() for name in names}
    if field and field not in known | of_events:
        hint = suggestion(field, known | of_events) or f" The fields are {', '.join(sorted(known))}"
        raise UserError(f"{flag}: expected a field with floats, got {field!r}.{hint}")
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(f"{flag}: expected a number of at least 0, got {value}")
