"""Sentences shared by all reports. Strings from a log are made printable here."""

from __future__ import annotations

import math
from typing import Any

import orjson

from higgs_audio_trainer.logs.diff.comparison import (
    KINDS,
    MISSING,
    ComparedLog,
    Comparison,
    Divergence,
    Field,
    Place,
    Setting,
)
from sinks.terminal.escape import printable
from sinks.terminal.words import count_of

_LONGEST_VALUE = 80  # characters
_LONGEST_CELL = 14
_DIGITS_OF_CELL = 4
_DIGITS = 6
_CUT = "..."
_MOST_NAMES = 10


def value(given: Any, *, longest: int = _LONGEST_VALUE) -> str:
    """Return a value as JSON, cut to a number of characters.

    Example:
        >>> value([1, None, "x"]), value("a" * 20, longest=10)
        ('[1,null,"x"]', '"aaaaaa...')
    """
    if given is MISSING:
        return "none"
    text = orjson.dumps(given).decode()
    return printable(text) if len(text) <= longest else f"{printable(text[: longest - len(_CUT)])}{_CUT}"


def name(given: Any) -> str:
    """Return a name without quotes."""
    return printable(given, longest=_LONGEST_VALUE) if isinstance(given, str) else value(given)


def pair(expected: Any, got: Any) -> str:
    """Return the expected and the actual value, with enough digits to distinguish floats.

    Example:
        >>> pair(2.5, 2.5000001)
        'expected 2.5, got 2.5000001'
    """
    ours, theirs = both(expected, got)
    if isinstance(expected, list) and isinstance(got, list) and len(expected) != len(got):
        return f"expected {count_of(len(expected), 'value')} {ours}, got {len(got):,} {theirs}"
    return f"expected {ours}, got {theirs}"


def both(expected: Any, got: Any, *, longest: int = _LONGEST_VALUE, digits: int = _DIGITS) -> tuple[str, str]:
    """Return two values as text, with enough digits to distinguish floats."""
    if isinstance(expected, float) and isinstance(got, float):
        for shown in range(digits, 17):
            texts = f"{expected:.{shown}g}", f"{got:.{shown}g}"
            if texts[0] != texts[1]:
                return texts
    texts = value(expected, longest=longest), value(got, longest=longest)
    cut_alike = texts[0] == texts[1] and texts[0].endswith(_CUT)
    return _around_difference(expected, got, longest) if cut_alike else texts


def _around_difference(expected: Any, got: Any, longest: int) -> tuple[str, str]:
    """Return two long values with equal beginnings as text, from shortly before the first difference."""
    ours, theirs = (orjson.dumps(given).decode() for given in (expected, got))
    same = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    shown = longest - 2 * len(_CUT)
    start = max(0, same - shown // 4)
    parts = [(text[start : start + shown], len(text) > start + shown) for text in (ours, theirs)]
    first, second = (f"{_CUT}{printable(part)}{_CUT if more else ''}" for part, more in parts)
    return first, second


def side(given: ComparedLog) -> str:
    """Return the description of a log.

    Example:
        >>> side(ComparedLog(name="run", run_id="adeb", events=61, faults=0, first_step=1, last_step=60))
        'run (run adeb, 61 events, steps 1 to 60)'
    """
    parts = [] if given.run_id is None else [f"run {name(given.run_id)}"]
    parts.append(count_of(given.events, "event"))
    if given.first_step is not None:
        one = given.first_step == given.last_step
        parts.append(f"step {given.first_step}" if one else f"steps {given.first_step} to {given.last_step}")
    return f"{printable(given.name)} ({', '.join(parts)})"


def setting(given: Setting) -> str:
    """Return the description of a differing setting.

    Example:
        >>> setting(Setting(kind="configuration", rank=0, field="config.lr", expected=0.01, got=0.011))
        'config.lr: expected 0.01, got 0.011'
    """
    rank = "" if given.rank in (0, None) else f" (rank {value(given.rank)})"
    return f"{name(given.field)}{rank}: {pair(given.expected, given.got)}"


def uncounted(comparison: Comparison) -> str:
    """Return the names of differing settings outside the comparison; "" without such settings."""
    names = [name(item) for item in comparison.uncounted]
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"Different but not compared: {', '.join(names[:_MOST_NAMES])}{more}" if names else ""


def faults(comparison: Comparison) -> list[str]:
    """Return the number of invalid lines of each log, with their treatment."""
    sides = (("A", comparison.expected.faults), ("B", comparison.got.faults))
    return [
        f"{count_of(number, 'invalid line')} in {letter}; lines with an event name are compared, others skipped."
        for letter, number in sides
        if number
    ]


def place(given: Place, position: int | None = None) -> str:
    """Return a place such as `step 20, sample en-2 (fingerprint 62a9), codebook 0, position 34`."""
    parts = [] if given.step is None else [f"step {value(given.step)}"]
    if given.rank not in (0, None):
        parts.append(f"rank {value(given.rank)}")
    if given.fingerprint is None and given.sample_id is None:
        parts.append(name(given.event))
    elif given.event == "generation_sample":
        parts += [given.event, f"probe {name(given.sample_id)}"]
    else:
        split = "sample" if given.split in ("train", None) else f"{name(given.split)} sample"
        parts.append(f"{split} {name(given.sample_id)} (fingerprint {name(given.fingerprint)})")
        parts.append(f"codebook {value(given.codebook)}" if given.codebook is not None else name(given.modality))
    if position is not None:
        parts.append(f"position {position}")
    return ", ".join(parts)


def divergence(given: Divergence) -> tuple[str, str]:
    """Return the place of a divergence and the difference."""
    where = place(given.place, given.position)
    if given.kind == "only_in_expected":
        return where, "expected this event, got no such event"
    if given.kind == "only_in_got":
        return where, "expected no such event, got this event"
    field = given.field.partition("[")[0] if given.position is not None else given.field
    off = "" if given.rtol is None or given.atol is None else f" ({_off(given)})"
    return where, f"{name(field)}: {pair(given.expected, given.got)}{off}"


def _off(given: Divergence) -> str:
    assert given.rtol is not None
    assert given.atol is not None
    absolute = given.got - given.expected
    relative = absolute / abs(given.expected) if given.expected else math.inf
    off = f"off by {relative:+.2g} relative" if math.isfinite(relative) else f"off by {absolute:+.2g}"
    if not given.rtol and not given.atol:
        return f"{off}; no tolerance"
    kinds = ((given.rtol, "relative"), (given.atol, "absolute"))
    tolerances = [f"{number:g} {kind}" for number, kind in kinds if number]
    return f"{off}; tolerance {', '.join(tolerances)}"


def remark(given: Divergence) -> str:
    """Return a remark if only the predictions differ; else ""."""
    if not given.only_predictions:
        return ""
    return "Inputs, labels and positions of this sample agree; its predictions differ."


def kind_counts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the number of differences for each kind."""
    return [(KINDS[kind], f"{number:,}") for kind, number in comparison.counts.items()]


#: Text for a kind of difference without details.
NO_DETAILS = "not among the worst fields; --only shows other fields"


def missing_events(comparison: Comparison, kind: str) -> str:
    """Return the missing events of a kind, such as `12 prediction_sample, 4 train_step`; "" for other kinds."""
    events = [f"{number:,} {name(event)}" for event, number in comparison.lone.get(kind, {}).items()]
    more = [f"and {len(events) - _MOST_NAMES:,} more names"] if len(events) > _MOST_NAMES else []
    return ", ".join([*events[:_MOST_NAMES], *more])


def short_name(given: str, longest: int) -> str:
    """Return a name without quotes, cut to a number of columns, escapes included."""
    if len(name(given)) <= longest:
        return name(given)
    lengths = range(longest, 0, -1)
    cut = (f"{printable(given[:length])}{_CUT}" for length in lengths)
    return next((text for text in cut if len(text) <= longest), _CUT)


def differing(field: Field) -> str:
    """Return the number of differing values of a field."""
    return f"{field.differing:,}" + ("" if field.values is None else f" of {field.values:,}")


FIELD_TITLES = ("worst fields (off: in tolerances)", "differ", "step", "expected", "got", "off", "mean off")


def field_cells(field: Field) -> tuple[str, ...]:
    """Return the row of a field in the table of fields, with one cell for each title of `FIELD_TITLES`."""
    ours, theirs = both(field.expected, field.got, longest=_LONGEST_CELL, digits=_DIGITS_OF_CELL)
    return (
        name(field.path),
        differing(field),
        "" if field.step is None else value(field.step),
        ours,
        theirs,
        residual(field.residual),
        residual(field.mean_residual),
    )


def residual(number: float | None) -> str:
    """Return a number of tolerances as text.

    Example:
        >>> residual(1.5), residual(2345.6), residual(math.inf), residual(None)
        ('+1.50', '+2,346', 'beyond', '')
    """
    if number is None:
        return ""
    if not math.isfinite(number):
        return "beyond"
    if abs(number) < 100:  # noqa: PLR2004
        return f"{number:+.2f}"
    return f"{number:+,.0f}" if abs(number) < 1e5 else f"{number:+.0e}"  # noqa: PLR2004


def drift(field: Field) -> str:
    """Return the description of a one-sided drift."""
    return (
        f"{name(field.path)}: {count_of(field.values or 0, 'value')}, all within tolerance, but the mean is "
        f"{residual(field.mean_residual)} tolerances off (one-sided)"
    )


def verdict(comparison: Comparison) -> str:
    """Return the result of the comparison in one line."""
    if comparison.same:
        how = "floats bit for bit" if comparison.exact else "floats within tolerance"
        agree = "agrees" if comparison.joined == 1 else "agree"
        return f"Same: {count_of(comparison.joined, 'event')} {agree} ({how})."
    parts = [f"{comparison.differing:,} of {count_of(comparison.joined, 'joined event')}"]
    for kind, letter in (("only_in_expected", "A"), ("only_in_got", "B")):
        if kind in comparison.counts:
            parts.append(f"{comparison.counts[kind]:,} only in {letter}")
    if "drift" in comparison.counts:
        parts.append(count_of(comparison.counts["drift"], "one-sided drift"))
    first = comparison.first
    step = "" if first is None or first.place.step is None else f"; first at step {value(first.place.step)}"
    return f"Differs: {', '.join(parts)}{step}."
