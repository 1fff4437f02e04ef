"""How far two floats may be apart, field by field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, get_args, get_type_hints

from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EVENTS, VOLATILE_FIELDS, Window
from higgs_audio_trainer.logs.diff.windows import WINDOWS


class Tolerance(NamedTuple):
    """Floats agree where |got - expected| <= atol + rtol x |expected|."""

    rtol: float
    atol: float


EXACT = Tolerance(0.0, 0.0)
USUAL = Tolerance(1e-4, 0.0)  # of fields that this version does not know, and of a diagnosis' evidence
_LOSS = Tolerance(1e-4, 1e-6)
_COUNTED = Tolerance(1e-6, 0.0)  # quotients of counts, and what the schedule says: the same arithmetic each time
_PROBABILITY = Tolerance(1e-4, 1e-5)
_RANK = Tolerance(0.05, 2.0)  # among logits that are nearly equal, rounding decides
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
    "offset_surplus": Tolerance(1e-3, 1e-2),  # a sum of probabilities less a count: about 0
    "stop_probability": _PROBABILITY,
    "label_probabilities": _PROBABILITY,
    "stop_rank": _RANK,
    "label_ranks": _RANK,
}
_RANKS = frozenset(name for name, tolerance in DEFAULTS.items() if tolerance is _RANK)  # integers, compared as floats


class Tolerances:
    """The tolerance of every field.

    Args:
        rtol: relative, for all fields (key ""), for one, or for one of an event, which goes first;
            what is not given is as in `DEFAULTS`.
        atol: absolute, likewise.
        exact: floats must be the same, bit for bit.

    Raises:
        UserError: a field is none that holds floats, or a tolerance is negative or no number.
    """

    def __init__(self, rtol: Mapping[str, float], atol: Mapping[str, float], *, exact: bool) -> None:
        for flag, given in (("--rtol", rtol), ("--atol", atol)):
            for field, value in given.items():
                _check(flag, field, value)
        if exact and (rtol or atol):
            raise UserError("--exact: expected no --rtol or --atol beside it, got both. Leave one of them out")
        self.exact = exact
        self._rtol, self._atol = rtol, atol

    def of(self, event: str, field: str) -> Tolerance:
        """Return the tolerance of a field of an event."""
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
    """Return how many tolerances a float is off, with its sign; infinite where there is no tolerance."""
    off = got - expected
    if off == 0:
        return 0.0
    scale = tolerance.atol + tolerance.rtol * abs(expected)
    return off / scale if scale else math.copysign(math.inf, off)


def same_bits(expected: float, got: float) -> bool:
    """Tell whether two floats are the same, the sign of zero included; 1 and 1.0 are."""
    return expected == got and math.copysign(1.0, expected) == math.copysign(1.0, got)


@cache
def float_fields(event: str) -> frozenset[str]:
    """Name the fields of an event that hold floats or ranks, also in lists; none of an event that is not known."""
    cls = EVENTS.get(event)
    return _float_fields(cls) if cls else frozenset()


@cache
def window_float_fields() -> frozenset[str]:
    """Name the fields of a window that hold floats or ranks."""
    return _float_fields(Window)


def _float_fields(cls: type[Any]) -> frozenset[str]:
    hints = get_type_hints(cls)
    return frozenset(
        name for name, hint in hints.items() if name not in VOLATILE_FIELDS and (name in _RANKS or _holds_floats(hint))
    )


def field_with_tolerance(path: Sequence[str | int]) -> str:
    """Name the field of a path whose tolerance counts: `label_ranks` of `first.label_ranks[2]`."""
    return str(path[1] if len(path) > 1 and path[0] in WINDOWS else path[0])


def _holds_floats(hint: object) -> bool:
    parts = [part for part in get_args(hint) if part not in (type(None), ...)]
    return hint is float or (bool(parts) and all(map(_holds_floats, parts)))


def _check(flag: str, field: str, value: float) -> None:
    by_event = {event: float_fields(event) for event in EVENTS}
    by_event["diagnosis"] |= {"evidence"}
    by_event["prediction_sample"] |= window_float_fields()
    known = frozenset().union(*by_event.values())
    of_events = {f"{event}.{name}" for event, names in by_event.items() for name in names}
    if field and field not in known | of_events:
        hint = suggestion(field, known | of_events) or f" There are {', '.join(sorted(known))}"
        raise UserError(f"{flag}: expected a field that holds floats, got {field!r}.{hint}")
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(f"{flag}: expected a number of at least 0, got {value}")
