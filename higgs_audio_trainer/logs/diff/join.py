"""Join of the events of two logs by key, independent of the order of lines.

The key is (event, split, step, rank, modality, code of a diagnosis, probe or fingerprint, codebook).

Logs are sorted by step, so the events of one step are held at a time. If a log is not sorted, or a step has too many
events, both logs are sorted on disk and joined again. `run_start` and `run_end` are joined by rank alone. Events that
wait for the decoder of the audio may follow events of later steps, and are sorted apart from the other events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import groupby
from typing import Any, NamedTuple

import orjson

from higgs_audio_trainer.events import EVENTS, LATE_EVENTS
from higgs_audio_trainer.logs.diff.sorter import Sorter
from higgs_audio_trainer.logs.lines import int_field
from higgs_audio_trainer.logs.typed import Record

_MOST_OF_A_STEP = 20_000  # events held in memory
OF_A_RUN = ("run_start", "run_end")  # joined by rank, whatever their step
_SPLITS_OF_A_STEP = {"train": 0, "eval": 1, "probe": 2}
_MODALITIES = {"text": 0, "audio": 1}
_EVENTS = {name: place for place, name in enumerate(EVENTS)}
_APART = LATE_EVENTS.union(OF_A_RUN)
_START, _STEP, _NO_STEP, _END = range(4)


class ComparedEvent(NamedTuple):
    """An event as compared.

    Attributes:
        step: Step of the event; None without a step.
        record: Event without volatile fields.
        encoded: The record as JSON.
    """

    step: int | None
    record: Record
    encoded: bytes


Key = tuple[Any, ...]
Pair = tuple[ComparedEvent | None, ComparedEvent | None]  # event in log A and in log B; None if missing


class UnsortedError(Exception):
    """A log is not sorted by step, or a step does not fit into memory."""


def key_of(record: Record) -> Key:
    """Return the join key of an event."""
    return order_of(record)[:-1]


def order_of(record: Record) -> Key:
    """Return the sort key of an event: the parts of the join key, in the order of a run.

    `run_start` comes first, then the events by step and rank. Events without a step and `run_end` come last. The last
    part of the sort key, the index in the batch, distinguishes events with the same join key.

    Example:
        >>> start, end = {"event": "run_start", "rank": 0}, {"event": "run_end", "rank": 0, "step": 10}
        >>> order_of(start) < order_of({"event": "train_step", "rank": 0, "step": 10}) < order_of(end)
        True
    """
    event, step = record["event"], int_field(record, "step")
    if event in OF_A_RUN:
        phase = _START if event == "run_start" else _END
        return phase, sortable(record.get("rank")), event, sortable(None)
    split, modality = record.get("split"), record.get("modality")
    return (
        _NO_STEP if step is None else _STEP,
        sortable(record.get("step")),
        sortable(record.get("rank")),
        _EVENTS.get(event, len(_EVENTS)),
        event,
        sortable(_SPLITS_OF_A_STEP.get(split, split) if isinstance(split, str) else split),
        sortable(_MODALITIES.get(modality, modality) if isinstance(modality, str) else modality),
        sortable(record.get("code")),
        sortable(record.get("probe", record.get("fingerprint"))),  # a probe is the same over the run
        sortable(record.get("codebook")),
        sortable(record.get("sample_index")),
    )


def canonical_order_of(record: Record) -> Key:
    """Return the sort key of a golden file's lines: like `order_of`, but grouped by sample of the batch."""
    order = order_of(record)
    return order if record["event"] in OF_A_RUN else (*order[:8], order[10], order[8], order[9])


def sortable(value: Any) -> Key:
    """Return a sort key for any JSON value: null, numbers by value, strings, lists, objects.

    Example:
        >>> sorted(["b", 2, None, [1], 1.5], key=sortable)
        [None, 1.5, 2, 'b', [1]]
    """
    if value is None:
        return (0,)
    if isinstance(value, (int, float)):
        return 1, value
    if isinstance(value, str):
        return 2, value
    if isinstance(value, list):
        return 3, *map(sortable, value)
    return 4, *((2, name, sortable(item)) for name, item in sorted(value.items()))


class JoinSide:
    """A log in a join. Call `close` at the end.

    Args:
        entries: Events of the log.
    """

    def __init__(self, entries: Iterable[ComparedEvent]) -> None:
        self._entries = entries
        self.others = Sorter(order_of)

    def close(self) -> None:
        """Delete temporary files."""
        self.others.close()

    def steps(self) -> Iterator[tuple[int, list[ComparedEvent]]]:
        """Yield the events of each step, in order; add events without a step and late events to `others`.

        Raises:
            UnsortedError: The log is not sorted by step, or a step has too many events.
        """
        step: int | None = None
        group: list[ComparedEvent] = []
        for entry in self._entries:
            if entry.step is None or entry.record["event"] in _APART:
                self.others.add(entry.record, entry.encoded)
                continue
            if entry.step != step:
                if step is not None:
                    if entry.step < step:
                        raise UnsortedError
                    yield step, group
                step, group = entry.step, []
            group.append(entry)
            if len(group) > _MOST_OF_A_STEP:
                raise UnsortedError
        if step is not None:
            yield step, group

    def rest(self) -> Iterator[tuple[Key, list[ComparedEvent]]]:
        """Yield the other events, grouped by join key and sorted."""
        for key, items in groupby(self.others, key=lambda item: item[0][:-1]):
            yield key, [_decoded(encoded) for _, encoded in items]

    def sort(self) -> None:
        """Add all events to `others`, which sorts the events."""
        for entry in self._entries:
            self.others.add(entry.record, entry.encoded)


def _decoded(encoded: bytes) -> ComparedEvent:
    record = orjson.loads(encoded)
    return ComparedEvent(int_field(record, "step"), record, encoded)


def joined(expected: Iterable[ComparedEvent], got: Iterable[ComparedEvent]) -> Iterator[Pair]:
    """Join two logs sorted by step.

    Raises:
        UnsortedError: A log is not sorted by step. The pairs yielded so far are then invalid.
    """
    with ExitStack() as stack:
        left, right = (stack.enter_context(closing(JoinSide(entries))) for entries in (expected, got))
        for ours, theirs in _merged(left.steps(), right.steps()):
            yield from _paired(ours, theirs)
        for ours, theirs in _merged(left.rest(), right.rest()):
            yield from _matched(ours, theirs)


def joined_unsorted(expected: Iterable[ComparedEvent], got: Iterable[ComparedEvent]) -> Iterator[Pair]:
    """Join two logs in any order, with temporary files."""
    with ExitStack() as stack:
        left, right = (stack.enter_context(closing(JoinSide(entries))) for entries in (expected, got))
        left.sort()
        right.sort()
        for ours, theirs in _merged(left.rest(), right.rest()):
            yield from _matched(ours, theirs)


def _merged(
    left: Iterator[tuple[Any, list[ComparedEvent]]], right: Iterator[tuple[Any, list[ComparedEvent]]]
) -> Iterator[tuple[list[ComparedEvent], list[ComparedEvent]]]:
    ours, theirs = next(left, None), next(right, None)
    while ours is not None or theirs is not None:
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None
            yield ours[1], []
            ours = next(left, None)
        elif ours is None or theirs[0] < ours[0]:
            yield [], theirs[1]
            theirs = next(right, None)
        else:
            yield ours[1], theirs[1]
            ours, theirs = next(left, None), next(right, None)


def _paired(ours: Sequence[ComparedEvent], theirs: Sequence[ComparedEvent]) -> Iterator[Pair]:
    """Pair the events of a step."""
    if len(ours) == len(theirs) and all(a.encoded == b.encoded for a, b in zip(ours, theirs, strict=True)):
        yield from zip(ours, theirs, strict=True)
        return
    left, right = _by_key(ours), _by_key(theirs)
    for key in left | right:
        yield from _matched(left.get(key, []), right.get(key, []))


def _by_key(entries: Iterable[ComparedEvent]) -> dict[Key, list[ComparedEvent]]:
    groups: dict[Key, list[ComparedEvent]] = defaultdict(list)
    for entry in entries:
        groups[key_of(entry.record)].append(entry)
    return dict(groups)


def _matched(ours: Sequence[ComparedEvent], theirs: Sequence[ComparedEvent]) -> Iterator[Pair]:
    """Pair events with the same key: equal events first, then events with the same place, then the remaining events."""
    if len(ours) <= 1 and len(theirs) <= 1:
        yield (ours[0] if ours else None), (theirs[0] if theirs else None)
        return
    left, right = sorted(ours, key=_content), sorted(theirs, key=_content)
    for tell_apart in (_exact, _place):
        pairs, left, right = _matched_by(tell_apart, left, right)
        yield from pairs
    for index in range(max(len(left), len(right))):
        yield (left[index] if index < len(left) else None), (right[index] if index < len(right) else None)


def _matched_by(
    key: Callable[[ComparedEvent], Any], left: Sequence[ComparedEvent], right: Sequence[ComparedEvent]
) -> tuple[list[Pair], list[ComparedEvent], list[ComparedEvent]]:
    waiting: dict[Any, list[ComparedEvent]] = defaultdict(list)
    for entry in reversed(right):
        waiting[key(entry)].append(entry)
    pairs: list[Pair] = []
    unmatched = []
    for entry in left:
        found = waiting.get(key(entry))
        if found:
            pairs.append((entry, found.pop()))
        else:
            unmatched.append(entry)
    taken = {id(pair[1]) for pair in pairs}
    return pairs, unmatched, [entry for entry in right if id(entry) not in taken]


def _content(entry: ComparedEvent) -> Key:
    return sortable(entry.record), _exact(entry)  # numbers sorted by value keep their order after small changes


def _exact(entry: ComparedEvent) -> bytes:
    return orjson.dumps(entry.record, option=orjson.OPT_SORT_KEYS)


def _place(entry: ComparedEvent) -> Key:
    return tuple(sortable(entry.record.get(name)) for name in ("sample_index", "path", "sink"))
