"""Filters for events by name, step, rank, sample, modality, codebook, split and mismatched predictions."""

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
_NAMES_OF_SAMPLES = ("sample_id", "probe", "fingerprint")
_MOST_DIGITS = 18  # of an integer in a flag; more digits do not fit into 64 bits
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Steps:
    """A range of steps with both ends included; None leaves an end open.

    Example:
        >>> [step in Steps(10, None) for step in (9, 10, 1000)]
        [False, True, True]
    """

    first: int | None
    last: int | None

    def __contains__(self, step: int) -> bool:
        return (self.first is None or step >= self.first) and (self.last is None or step <= self.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that an event must meet to be shown. Events without the filtered field are hidden.

    Attributes:
        events: Names of events; empty for all.
        steps: Range of steps; None for all.
        ranks: Ranks that wrote the events; empty for all.
        codebooks: Codebooks of samples, token counts and diagnoses; empty for all.
        modality: Text or audio; None for both.
        split: Train, eval or probe; None for all.
        samples: Ids or fingerprints of samples, also of probes; empty for all.
        mismatches_only: Show only samples with an incorrect prediction.

    Example:
        >>> step = {"event": "train_step", "step": 20, "rank": 0}
        >>> Filter(steps=Steps(10, 30)).matches(step), Filter(modality="audio").matches(step)
        (True, False)
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
        """Whether the filter has no condition."""
        return not any(getattr(self, item.name) for item in fields(self))

    def matches(self, record: Record) -> bool:
        """Return True if an event meets all conditions."""
        step = int_field(record, "step")
        return (
            (not self.events or record["event"] in self.events)
            and (self.steps is None or (step is not None and step in self.steps))
            and (not self.ranks or int_field(record, "rank") in self.ranks)
            and (not self.codebooks or int_field(record, "codebook") in self.codebooks)
            and self.modality in (None, record.get("modality"))
            and self.split in (None, record.get("split"))
            and (not self.samples or any(_text(record, name) in self.samples for name in _NAMES_OF_SAMPLES))
            and (not self.mismatches_only or _is_mismatched(record))
        )


def _text(record: Record, name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) else None


def _is_mismatched(record: Record) -> bool:
    correct, targets = int_field(record, "num_correct"), int_field(record, "num_targets")
    return "sample_id" in record and correct is not None and targets is not None and correct < targets


def events_of(texts: Iterable[str]) -> frozenset[str]:
    """Parse the names of `--event`, separated by commas.

    Raises:
        UserError: A name cannot be the name of an event.

    Example:
        >>> sorted(events_of(["train_step, eval_result"]))
        ['eval_result', 'train_step']
    """
    return _each("--event", texts, _event_name)


def _event_name(name: str) -> str:
    if not name.isidentifier():
        hint = suggestion(name, EVENTS)
        raise UserError(f"--event: expected names of events ({', '.join(EVENTS)}), got {name!r}.{hint}")
    return name


def unknown_events(names: Iterable[str]) -> list[str]:
    """Return a message for each name unknown to this version. A newer version may know the name.

    Example:
        >>> unknown_events({"train_step", "trian_step"})
        ['--event: this version knows no event trian_step. Did you mean train_step?']
    """
    return [
        f"--event: this version knows no event {name}.{suggestion(name, EVENTS)}"
        for name in sorted(names - EVENTS.keys())
    ]


def steps_of(text: str) -> Steps:
    """Parse the range of `--step`: `FIRST:LAST` with both ends included, `FIRST:`, `:LAST` or a single step.

    Raises:
        UserError: The text has another form.

    Example:
        >>> steps_of("100:200")
        Steps(first=100, last=200)
        >>> steps_of("50")
        Steps(first=50, last=50)
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
    """Parse a flag's integers, separated by commas.

    Raises:
        UserError: A part is not an integer of at least 0.

    Example:
        >>> sorted(numbers_of("--codebook", ["0,3", "7"]))
        [0, 3, 7]
    """

    def read(text: str) -> int:
        if (number := _number(text)) < 0:
            raise UserError(f"{flag}: expected integers of at least 0, as in 0,3, got {text!r}")
        return number

    return _each(flag, texts, read)


def choice_of(flag: str, text: str | None, choices: tuple[str, ...]) -> str | None:
    """Check that a flag's value, if given, is among the choices.

    Raises:
        UserError: The value is not among the choices.
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
    """Parse an integer of at least 0; return -1 for other text."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else -1
