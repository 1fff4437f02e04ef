"""The words that every report is made of. What comes from a log is made printable here, once."""

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

_LONGEST_VALUE = 80  # characters
_LONGEST_CELL = 14
_DIGITS_OF_CELL = 4
_DIGITS = 6
_CUT = "..."
_MOST_NAMES = 10


def value(given: Any, *, longest: int = _LONGEST_VALUE) -> str:
    """Write a value as JSON has it, cut where it is longer than so many characters."""
    if given is MISSING:
        return "none"
    text = orjson.dumps(given).decode()
    return printable(text) if len(text) <= longest else f"{printable(text[: longest - len(_CUT)])}{_CUT}"


def name(given: Any) -> str:
    """Write a name without quotes."""
    return printable(given, longest=_LONGEST_VALUE) if isinstance(given, str) else value(given)


def pair(expected: Any, got: Any) -> str:
    """Write what was expected and got; floats with as many digits as it takes to tell them apart."""
    ours, theirs = both(expected, got)
    if isinstance(expected, list) and isinstance(got, list) and len(expected) != len(got):
        return f"expected {count(len(expected), 'value')} {ours}, got {len(got):,} {theirs}"
    return f"expected {ours}, got {theirs}"


def both(expected: Any, got: Any, *, longest: int = _LONGEST_VALUE, digits: int = _DIGITS) -> tuple[str, str]:
    """Write two values; floats with as many digits as it takes to tell them apart."""
    if isinstance(expected, float) and isinstance(got, float):
        for shown in range(digits, 17):
            texts = f"{expected:.{shown}g}", f"{got:.{shown}g}"
            if texts[0] != texts[1]:
                return texts
    texts = value(expected, longest=longest), value(got, longest=longest)
    cut_alike = texts[0] == texts[1] and texts[0].endswith(_CUT)
    return _around_difference(expected, got, longest) if cut_alike else texts


def _around_difference(expected: Any, got: Any, longest: int) -> tuple[str, str]:
    """Write two values whose beginnings are equal from shortly before they differ."""
    ours, theirs = (orjson.dumps(given).decode() for given in (expected, got))
    same = next(index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    shown = longest - 2 * len(_CUT)
    start = max(0, same - shown // 4)
    parts = [(text[start : start + shown], len(text) > start + shown) for text in (ours, theirs)]
    first, second = (f"{_CUT}{printable(part)}{_CUT if more else ''}" for part, more in parts)
    return first, second


def count(number: int, noun: str) -> str:
    """Write a number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def side(given: ComparedLog) -> str:
    """Write which log a side is."""
    parts = [] if given.run_id is None else [f"run {name(given.run_id)}"]
    parts.append(count(given.events, "event"))
    if given.first_step is not None:
        one = given.first_step == given.last_step
        parts.append(f"step {given.first_step}" if one else f"steps {given.first_step} to {given.last_step}")
    return f"{printable(given.name)} ({', '.join(parts)})"


def setting(given: Setting) -> str:
    """Write a setting that differs."""
    rank = "" if given.rank in (0, None) else f" (rank {value(given.rank)})"
    return f"{name(given.field)}{rank}: {pair(given.expected, given.got)}"


def uncounted(comparison: Comparison) -> str:
    """Write which settings differ without being compared; "" if none does."""
    names = [name(item) for item in comparison.uncounted]
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"Also different, but not compared: {', '.join(names[:_MOST_NAMES])}{more}" if names else ""


def faults(comparison: Comparison) -> list[str]:
    """Write how many lines of each side are faulty, and what became of them."""
    sides = (("A", comparison.expected.faults), ("B", comparison.got.faults))
    return [
        f"{count(number, 'line')} of {letter} {'is' if number == 1 else 'are'} faulty: compared as they are where they "
        "name an event, else passed over."
        for letter, number in sides
        if number
    ]


def place(given: Place, position: int | None = None) -> str:
    """Write where something is: `step 20, sample en-2 (fingerprint 62a9), codebook 0, position 34`."""
    parts = [] if given.step is None else [f"step {value(given.step)}"]
    if given.rank not in (0, None):
        parts.append(f"rank {value(given.rank)}")
    if given.fingerprint is None and given.sample_id is None:
        parts.append(name(given.event))
    else:
        split = "eval sample" if given.split == "eval" else "sample"
        parts.append(f"{split} {name(given.sample_id)} (fingerprint {name(given.fingerprint)})")
        parts.append(f"codebook {value(given.codebook)}" if given.codebook is not None else name(given.modality))
    if position is not None:
        parts.append(f"position {position}")
    return ", ".join(parts)


def divergence(given: Divergence) -> tuple[str, str]:
    """Write where two logs part, and what is different there."""
    where = place(given.place, given.position)
    if given.kind == "only_in_expected":
        return where, "expected this event, got none"
    if given.kind == "only_in_got":
        return where, "expected no such event, got this one"
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
    """Write what a divergence in predictions alone tells; "" for others."""
    if not given.only_predictions:
        return ""
    return "Inputs, labels and positions of this sample agree; its predictions differ."


def kind_counts(comparison: Comparison) -> list[tuple[str, str]]:
    """Write how many differences there are of each kind."""
    return [(KINDS[kind], f"{number:,}") for kind, number in comparison.counts.items()]


#: What stands for details where a kind of difference has none to show.
NO_DETAILS = "in none of the worst fields; --only shows others"


def missing_events(comparison: Comparison, kind: str) -> str:
    """Write which events one side lacks: `12 prediction_sample, 4 train_step`; "" for other kinds."""
    events = [f"{number:,} {name(event)}" for event, number in comparison.lone.get(kind, {}).items()]
    more = [f"and {len(events) - _MOST_NAMES:,} more names"] if len(events) > _MOST_NAMES else []
    return ", ".join([*events[:_MOST_NAMES], *more])


def short_name(given: str, longest: int) -> str:
    """Write a name without quotes, cut so that it takes so many columns at most, escapes included."""
    if len(name(given)) <= longest:
        return name(given)
    lengths = range(longest, 0, -1)
    cut = (f"{printable(given[:length])}{_CUT}" for length in lengths)
    return next((text for text in cut if len(text) <= longest), _CUT)


def differing(field: Field) -> str:
    """Write how many values of a field differ: `3 of 60`."""
    return f"{field.differing:,}" + ("" if field.values is None else f" of {field.values:,}")


FIELD_TITLES = ("worst fields (off: in tolerances)", "differ", "step", "expected", "got", "off", "mean off")


def field_cells(field: Field) -> tuple[str, ...]:
    """Write a row of the table of fields: how often it differs, where most, and how many tolerances it is off."""
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
    """Write how many tolerances something is off."""
    if number is None:
        return ""
    if not math.isfinite(number):
        return "beyond"
    if abs(number) < 100:  # noqa: PLR2004
        return f"{number:+.2f}"
    return f"{number:+,.0f}" if abs(number) < 1e5 else f"{number:+.0e}"  # noqa: PLR2004


def drift(field: Field) -> str:
    """Write that a field is shifted to one side."""
    return (
        f"{name(field.path)}: {count(field.values or 0, 'value')}, all within tolerance, but on average "
        f"{residual(field.mean_residual)} tolerances off: one-sided"
    )


def verdict(comparison: Comparison) -> str:
    """Write the result in one line."""
    if comparison.same:
        how = "floats bit for bit" if comparison.exact else "floats within tolerance"
        return f"Same: {count(comparison.joined, 'event')} {'agrees' if comparison.joined == 1 else 'agree'} ({how})."
    parts = [f"{comparison.differing:,} of {count(comparison.joined, 'joined event')}"]
    for kind, letter in (("only_in_expected", "A"), ("only_in_got", "B")):
        if kind in comparison.counts:
            parts.append(f"{comparison.counts[kind]:,} only in {letter}")
    if "drift" in comparison.counts:
        parts.append(count(comparison.counts["drift"], "one-sided drift"))
    first = comparison.first
    step = "" if first is None or first.place.step is None else f"; first at step {value(first.place.step)}"
    return f"Differs: {', '.join(parts)}{step}."
