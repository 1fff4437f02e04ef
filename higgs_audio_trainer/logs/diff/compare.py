"""Two logs compared: the first divergence, what differs and how often, and what drifts. Pure: data in, data out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from higgs_audio_trainer.errors import InputProblem, UserError
from higgs_audio_trainer.logs.diff.comparison import MISSING, Comparison, Divergence, Setting, Side
from higgs_audio_trainer.logs.diff.difference import Comparer, Difference
from higgs_audio_trainer.logs.diff.divergence import place_of, position_of, rank_of
from higgs_audio_trainer.logs.diff.join import (
    OF_A_RUN,
    Entry,
    Key,
    Pair,
    UnsortedError,
    canonical_order_of,
    joined,
    joined_unsorted,
)
from higgs_audio_trainer.logs.diff.selection import Selection
from higgs_audio_trainer.logs.diff.sides import Log, Source
from higgs_audio_trainer.logs.diff.tally import Tally
from higgs_audio_trainer.logs.diff.tolerance import Tolerances, field_with_tolerance
from higgs_audio_trainer.logs.diff.windows import OF_THE_MODEL, WINDOWS
from higgs_audio_trainer.logs.lines import OnFault
from higgs_audio_trainer.logs.source import STDIN
from higgs_audio_trainer.logs.typed import Record

_MOST_SETTINGS = 1_000


@dataclass(frozen=True, slots=True)
class Options:
    """How logs are compared.

    Attributes:
        rtol: relative tolerance of floats: a number for all fields, or by field (`loss`) or field of an event
            (`train_step.loss`), which goes first; "" is all others.
        atol: absolute tolerance, likewise.
        exact: floats must be equal bit for bit.
        ignore: events and fields that are left out; see `Selection` for how they are named.
        only: events and fields that are compared; empty for all.

    Raises:
        UserError: a name or a number is none.
    """

    rtol: float | Mapping[str, float] = field(default_factory=dict)
    atol: float | Mapping[str, float] = field(default_factory=dict)
    exact: bool = False
    ignore: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.tolerances()
        self.selection()

    def tolerances(self) -> Tolerances:
        """Return the tolerance of every field."""
        rtol, atol = (given if isinstance(given, Mapping) else {"": given} for given in (self.rtol, self.atol))
        return Tolerances(rtol, atol, exact=self.exact)

    def selection(self) -> Selection:
        """Return what is compared."""
        return Selection(_names(self.ignore), _names(self.only))


def _names(given: Collection[str]) -> Collection[str]:
    return (given,) if isinstance(given, str) else given


_DEFAULT = Options()


def compare(expected: Log, got: Log, *, options: Options = _DEFAULT, on_fault: OnFault | None = None) -> Comparison:
    """Compare two logs, joined by key: the order of their lines does not matter.

    Memory does not grow with the logs: the events of one step are held at a time, and logs that are not sorted by step
    are sorted in temporary files.

    Args:
        expected: A, a path as for `read`, or records.
        got: B.
        options: tolerances, and what is left out.
        on_fault: is told of each line that holds no event; without it such lines are only counted. Those that are an
            object with the name of an event, but not as its type says, are compared all the same.

    Returns:
        what differs; `same` if nothing does.

    Raises:
        UserError: they cannot be compared: one cannot be read, or they have no event in common.
    """
    if all(isinstance(log, (str, type(STDIN))) and str(log) == str(STDIN) for log in (expected, got)):
        raise UserError("diff: expected two logs, got standard input (-) twice. Name a file for one of them")
    tell = on_fault or _ignore
    with Source(expected, tell) as ours, Source(got, tell) as theirs:
        try:
            return _compared(ours, theirs, joined, options)
        except UnsortedError:
            return _compared(ours, theirs, joined_unsorted, options)


def _ignore(_fault: InputProblem) -> None:
    pass


def _compared(
    ours: Source,
    theirs: Source,
    join: Callable[[Iterator[Entry], Iterator[Entry]], Iterator[Pair]],
    options: Options,
) -> Comparison:
    comparison = _Comparison(options)
    selection = options.selection()
    for expected, got in join(*(_taken(source, selection) for source in (ours, theirs))):
        comparison.take(expected, got)
    return comparison.result(ours, theirs)


def _taken(source: Source, selection: Selection) -> Iterator[Entry]:
    """Yield what is compared, and every `run_start`."""
    if selection.takes_all:
        return source.entries()
    return (
        entry
        for entry in source.entries()
        if entry.record["event"] == "run_start" or selection.takes(entry.record["event"])
    )


class _Comparison:
    """A comparison that goes on, pair by pair."""

    def __init__(self, options: Options) -> None:
        self._tally = Tally()
        self._tolerances = options.tolerances()
        self._selection = options.selection()
        self._comparer = Comparer(self._tolerances, self._tally.measure)
        self._settings: list[Setting] = []
        self._uncounted: set[str] = set()
        self._first: tuple[Key, Divergence] | None = None
        self._joined = self._differing = 0
        self._any_joined = False
        self._joined_of_steps = False
        self._any_of_steps = False

    def take(self, expected: Entry | None, got: Entry | None) -> None:
        """Take a pair; None where one side alone has the event."""
        entry = expected or got
        assert entry is not None
        event = entry.record["event"]
        self._any_of_steps |= event not in OF_A_RUN
        if expected is None or got is None:
            if self._selection.takes(event) and self._selection.of(entry.record):
                self._lacks(entry, "only_in_expected" if got is None else "only_in_got")
            return
        self._any_joined |= self._selection.takes(event)
        self._joined_of_steps |= event not in OF_A_RUN
        if event == "run_start":
            self._differing += self._take_settings(expected.record, got.record)
        elif expected.encoded == got.encoded:
            record = self._selection.of(expected.record)
            self._joined += bool(record)
            self._tally.agree(event, record)
        else:
            self._differing += self._take_records(expected.record, got.record)

    def _lacks(self, entry: Entry, kind: str) -> None:
        there = entry.record["event"]
        self._tally.lacks(kind, there)
        expected, got = (there, MISSING) if kind == "only_in_expected" else (MISSING, there)
        self._diverges(entry.record, Difference(kind, (), expected, got), only_predictions=False)

    def _take_settings(self, expected: Record, got: Record) -> bool:
        """Compare two `run_start`; return whether they differ in what counts."""
        takes = self._selection.takes("run_start")
        ours, theirs = (self._selection.of(record) if takes else {} for record in (expected, got))
        self._joined += bool(ours or theirs)
        counted = set()
        for found in self._comparer.differences("run_start", ours, theirs):
            self._tally.kinds[found.kind] += 1
            counted.add(found.place)
            if len(self._settings) < _MOST_SETTINGS:
                setting = Setting(found.kind, expected.get("rank"), found.place, found.expected, found.got)
                self._settings.append(setting)
        if not self._selection.takes_all:
            everything = self._comparer.differences("run_start", expected, got)
            self._uncounted.update(found.place for found in everything if found.place not in counted)
        return bool(counted)

    def _take_records(self, expected: Record, got: Record) -> bool:
        """Compare two events; return whether they differ."""
        event = expected["event"]
        ours, theirs = self._selection.of(expected), self._selection.of(got)
        self._joined += bool(ours or theirs)
        first: Difference | None = None
        slots = set()
        for found in self._comparer.differences(event, ours, theirs):
            self._tally.differs(event, found, expected.get("step"))
            if len(found.path) > 1 and found.path[0] in WINDOWS:
                slots.add(found.path[1])
            if first is None or rank_of(found.path) < rank_of(first.path):
                first = found
        self._tally.end_event()
        if first is None:
            return False
        self._diverges(expected, first, got=got, only_predictions="predictions" in slots and slots <= OF_THE_MODEL)
        return True

    def _diverges(
        self, record: Record, found: Difference, *, got: Record | None = None, only_predictions: bool
    ) -> None:
        order = canonical_order_of(record)
        if self._first is not None and self._first[0] <= order:
            return
        is_float = found.residual is not None
        tolerance = self._tolerances.of(record["event"], field_with_tolerance(found.path)) if is_float else None
        divergence = Divergence(
            kind=found.kind,
            place=place_of(record),
            field=found.place,
            position=position_of(found.path, record, got or record),
            expected=found.expected,
            got=found.got,
            rtol=tolerance.rtol if tolerance else None,
            atol=tolerance.atol if tolerance else None,
            only_predictions=only_predictions,
        )
        self._first = order, divergence

    def result(self, ours: Source, theirs: Source) -> Comparison:
        """Return what was found.

        Raises:
            UserError: nothing was compared.
        """
        expected, got = ours.side(), theirs.side()
        self._refuse_if_nothing_was_compared(expected, got)
        drifts = () if self._tolerances.exact else self._tally.drifts()
        counts = self._tally.counts(len(drifts))
        places, others = ours.settings(), theirs.settings()
        moved = {name for name in places.keys() | others.keys() if places.get(name) != others.get(name)}
        known = places and others  # a golden says nothing of them
        return Comparison(
            same=not counts,
            expected=expected,
            got=got,
            joined=self._joined,
            differing=self._differing,
            settings=tuple(self._settings),
            uncounted=tuple(sorted(self._uncounted | (moved if known else set()))),
            first=self._first[1] if self._first else None,
            counts=counts,
            lone={kind: dict(events.most_common()) for kind, events in self._tally.lone.items()},
            worst=self._tally.worst(),
            drifts=drifts,
            exact=self._tolerances.exact,
        )

    def _refuse_if_nothing_was_compared(self, expected: Side, got: Side) -> None:
        if not (self._any_joined or self._joined_of_steps) or (self._any_of_steps and not self._joined_of_steps):
            raise UserError(
                f"diff: expected events that both logs have, got none. A, {expected.name}: {_extent(expected)}. "
                f"B, {got.name}: {_extent(got)}. Events are joined by event, split, step, rank, modality, fingerprint "
                "and codebook: name two runs with the same data and --log_steps"
            )
        if not (self._joined or self._tally.kinds):
            raise UserError(
                "diff: expected something to compare, got no event that has what --only and --ignore leave. "
                "Name other fields"
            )


def _extent(side: Side) -> str:
    if not side.events:
        return "no event"
    events = "1 event" if side.events == 1 else f"{side.events:,} events"
    if side.first_step is None:
        return f"{events}, none with a step"
    first, last = side.first_step, side.last_step
    return f"{events}, " + (f"step {first}" if first == last else f"steps {first} to {last}")
