"""Which events are shown: by name, step, rank, sample, modality, codebook, split, or for being wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, TypeVar, get_args

from higgs_audio_trainer.errors import UserError, suggestion
from higgs_audio_trainer.events import EVENTS, Modality, Split
from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import Record

MODALITIES: tuple[str, ...] = get_args(Modality)
SPLITS: tuple[str, ...] = get_args(Split)
_MOST_DIGITS = 18  # of a whole number that is given; no step has more
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps from the first to the last, both with it; None: no bound."""

    first: int | None
    last: int | None

    def __contains__(self, step: int) -> bool:
        return (self.first is None or step >= self.first) and (self.last is None or step <= self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What an event must be to be shown. Empty or None asks for nothing; an event without the field is none of those.

    Attributes:
        events: its name is one of these.
        steps: its step.
        ranks: the rank that wrote it.
        codebooks: its codebook; of a sample, of counts, of a diagnosis.
        modality: text or audio.
        split: train or eval.
        samples: the id or the fingerprint of its sample.
        mismatches_only: a sample with a target that was not predicted.
    """

    events: frozenset[str] = frozenset()
    steps: Steps | None = None
    ranks: frozenset[int] = frozenset()
    codebooks: frozenset[int] = frozenset()
    modality: str | None = None
    split: str | None = None
    samples: frozenset[str] = frozenset()
    mismatches_only: bool = False

    @property
    def takes_all(self) -> bool:
        """Whether nothing is asked for."""
        return not any(getattr(self, item.name) for item in fields(self))

    def matches(self, record: Record) -> bool:
        """Tell whether an event is one of those that are asked for."""
        step = int_field(record, "step")
        return (
            (not self.events or record["event"] in self.events)
            and (self.steps is None or (step is not None and step in self.steps))
            and (not self.ranks or int_field(record, "rank") in self.ranks)
            and (not self.codebooks or int_field(record, "codebook") in self.codebooks)
            and self.modality in (None, record.get("modality"))
            and self.split in (None, record.get("split"))
            and (not self.samples or any(_text(record, name) in self.samples for name in ("sample_id", "fingerprint")))
            and (not self.mismatches_only or _is_mismatched(record))
        )


def _text(record: Record, name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) else None


def _is_mismatched(record: Record) -> bool:
    correct, targets = int_field(record, "num_correct"), int_field(record, "num_targets")
    return "sample_id" in record and correct is not None and targets is not None and correct < targets


def events_of(texts: Iterable[str]) -> frozenset[str]:
    """Read `--event`: names, apart by commas.

    Raises:
        UserError: one of them cannot be the name of an event.
    """
    return _each("--event", texts, _event_name)


def _event_name(name: str) -> str:
    if not name.isidentifier():
        hint = suggestion(name, EVENTS)
        raise UserError(f"--event: expected names of events ({', '.join(EVENTS)}), got {name!r}.{hint}")
    return name


def unknown_events(names: Iterable[str]) -> list[str]:
    """Say of each name that this version does not know what may be meant. A newer version may know it."""
    return [
        f"--event: this version knows no event {name}.{suggestion(name, EVENTS)}"
        for name in sorted(names - EVENTS.keys())
    ]


def steps_of(text: str) -> Steps:
    """Read `--step`: `A:B` with both ends, `A:`, `:B` or `A`.

    Raises:
        UserError: it is something else.
    """
    first, colon, last = text.partition(":")
    bounds = [None if not part.strip() else _number(part) for part in (first, last if colon else first)]
    if -1 in bounds or bounds == [None, None]:
        raise UserError(f"--step: expected FIRST:LAST, FIRST:, :LAST or one step, as in 100:200, got {text!r}")
    steps = Steps(*bounds)
    if steps.first is not None and steps.last is not None and steps.first > steps.last:
        raise UserError(f"--step: expected the first step before the last, got {text!r}")
    return steps


def numbers_of(flag: str, texts: Iterable[str]) -> frozenset[int]:
    """Read a flag that takes whole numbers, apart by commas.

    Raises:
        UserError: one of them is none.
    """

    def read(text: str) -> int:
        if (number := _number(text)) < 0:
            raise UserError(f"{flag}: expected whole numbers from 0 on, like 0,3, got {text!r}")
        return number

    return _each(flag, texts, read)


def choice_of(flag: str, text: str | None, choices: tuple[str, ...]) -> str | None:
    """Read a flag that takes one of a few words.

    Raises:
        UserError: it is none of them.
    """
    if text is not None and text not in choices:
        raise UserError(f"{flag}: expected {' or '.join(choices)}, got {text!r}")
    return text


def _each(flag: str, texts: Iterable[str], read: Callable[[str], _Item]) -> frozenset[_Item]:
    items: list[Any] = []
    for text in texts:
        parts = [part.strip() for part in text.split(",")]
        if not any(parts):
            raise UserError(f"{flag}: expected a value, got {text!r}")
        items += [read(part) for part in parts if part]
    return frozenset(items)


def _number(text: str) -> int:
    """Read a whole number; -1 for what is none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else -1
