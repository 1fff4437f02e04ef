"""Comparison of two logs: first divergence, differing fields with counts, and one-sided drifts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.logs.diff.comparison import MISSING, ComparedLog, Comparison, Divergence, Setting
from higgs_audio_trainer.logs.diff.difference import Comparer, Difference
from higgs_audio_trainer.logs.diff.divergence import place_of, position_of, rank_of
from higgs_audio_trainer.logs.diff.join import (
    OF_A_RUN,
    ComparedEvent,
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
from higgs_audio_trainer.logs.lines import OnProblem, ignore_problem
from higgs_audio_trainer.logs.run_filter import OnNotice
from higgs_audio_trainer.logs.source import STDIN
from higgs_audio_trainer.logs.typed import Record

_MOST_SETTINGS = 1_000


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """Settings of a comparison.

    Attributes:
        rtol: Relative tolerance of floats: a number for all fields, or a number by field (`loss`) or by field of an
            event (`train_step.loss`). The key "" stands for all other fields. The most specific key counts.
        atol: Absolute tolerance of floats, in the same form.
        exact: Floats must be equal bit for bit.
        ignore: Names of events and fields to leave out, see `Selection`.
        only: Names of events and fields to compare; empty for all.

    Raises:
        UserError: A name or a number is invalid.

    Example:
        >>> DiffOptions(rtol={"loss": 1e-3}).tolerances().of("train_step", "loss")
        Tolerance(rtol=0.001, atol=1e-06)
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
        """Return the tolerances of all fields."""
        rtol, atol = (given if isinstance(given, Mapping) else {"": given} for given in (self.rtol, self.atol))
        return Tolerances(rtol, atol, exact=self.exact)

    def selection(self) -> Selection:
        """Return the compared events and fields."""
        return Selection(_names(self.ignore), _names(self.only))


def _names(given: Collection[str]) -> Collection[str]:
    return (given,) if isinstance(given, str) else given


_DEFAULT = DiffOptions()


def diff(
    expected: Log,
    got: Log,
    *,
    options: DiffOptions = _DEFAULT,
    run: str | tuple[str | None, str | None] | None = None,
    on_problem: OnProblem | None = None,
    on_notice: OnNotice | None = None,
) -> Comparison:
    """Compare two logs, joined by key. The order of lines does not matter.

    Memory does not grow with the logs. The events of one step are held at a time. Logs not sorted by step are sorted in
    temporary files.

    Args:
        expected: Log A: a path as for `read`, or records.
        got: Log B.
        options: Tolerances, and events and fields to leave out.
        run: Id of the run to compare, or the beginning of the id, for each log with the run; or the ids for A and B. By
            default the run of each log that began last.
        on_problem: Receives each invalid line. Invalid lines with an event name are compared, other invalid lines are
            only counted.
        on_notice: Receives each message about a log, as for `read`.

    Returns:
        The differences; `same` is True without a difference.

    Raises:
        UserError: A log cannot be read, the logs have no event in common, or `run` names no run or several runs.

    Example:
        >>> step = {"event": "train_step", "v": 1, "rank": 0, "step": 10, "loss": 2.5}
        >>> diff([step], [step]).same
        True
        >>> diff([step], [step | {"loss": 2.6}]).counts
        {'floats': 1}
    """
    if all(isinstance(log, (str, type(STDIN))) and str(log) == str(STDIN) for log in (expected, got)):
        raise UserError("diff: expected two logs, got standard input (-) twice. Name a file for one of them")
    report = on_problem or ignore_problem
    ours_run, theirs_run = run if isinstance(run, tuple) else (run, run)
    side = partial(Source, on_problem=report, may_lack_run=isinstance(run, str), on_notice=on_notice)
    with side(expected, run=ours_run) as ours, side(got, run=theirs_run) as theirs:
        if ours.lacks_run and theirs.lacks_run:
            raise ours.lacks_run
        try:
            return _compared(ours, theirs, joined, options)
        except UnsortedError:
            return _compared(ours, theirs, joined_unsorted, options)


def _compared(
    ours: Source,
    theirs: Source,
    join: Callable[[Iterator[ComparedEvent], Iterator[ComparedEvent]], Iterator[Pair]],
    options: DiffOptions,
) -> Comparison:
    comparison = _RunningComparison(options)
    selection = options.selection()
    for expected, got in join(*(_taken(source, selection) for source in (ours, theirs))):
        comparison.take(expected, got)
    return comparison.result(ours, theirs)


def _taken(source: Source, selection: Selection) -> Iterator[ComparedEvent]:
    """Yield the compared events and every `run_start`."""
    if selection.takes_all:
        return source.entries()
    return (
        entry
        for entry in source.entries()
        if entry.record["event"] == "run_start" or selection.takes(entry.record["event"])
    )


class _RunningComparison:
    """A comparison in progress, pair by pair."""

    def __init__(self, options: DiffOptions) -> None:
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

    def take(self, expected: ComparedEvent | None, got: ComparedEvent | None) -> None:
        """Compare a pair; None stands for an event missing in a log."""
        entry = expected or got
        assert entry is not None
        event = entry.record["event"]
        self._any_of_steps |= event not in OF_A_RUN
        if expected is None or got is None:
            if self._selection.takes(event) and self._selection.of(entry.record):
                self._take_missing(entry, "only_in_expected" if got is None else "only_in_got")
            return
        self._any_joined |= self._selection.takes(event)
        self._joined_of_steps |= event not in OF_A_RUN
        if event == "run_start":
            self._differing += self._take_settings(expected.record, got.record)
        elif expected.encoded == got.encoded:
            record = self._selection.of(expected.record)
            self._joined += bool(record)
            self._tally.add_equal(event, record)
        else:
            self._differing += self._take_records(expected.record, got.record)

    def _take_missing(self, entry: ComparedEvent, kind: str) -> None:
        there = entry.record["event"]
        self._tally.add_missing(kind, there)
        expected, got = (there, MISSING) if kind == "only_in_expected" else (MISSING, there)
        self._take_divergence(entry.record, Difference(kind, (), expected, got), only_predictions=False)

    def _take_settings(self, expected: Record, got: Record) -> bool:
        """Compare two `run_start`; return whether a compared field differs."""
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
        """Compare two events; return whether a field differs."""
        event = expected["event"]
        ours, theirs = self._selection.of(expected), self._selection.of(got)
        self._joined += bool(ours or theirs)
        first: Difference | None = None
        slots = set()
        for found in self._comparer.differences(event, ours, theirs):
            self._tally.add_difference(event, found, expected.get("step"))
            if len(found.path) > 1 and found.path[0] in WINDOWS:
                slots.add(found.path[1])
            if first is None or rank_of(found.path) < rank_of(first.path):
                first = found
        self._tally.end_event()
        if first is None:
            return False
        self._take_divergence(
            expected, first, got=got, only_predictions="predictions" in slots and slots <= OF_THE_MODEL
        )
        return True

    def _take_divergence(
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
        """Return the comparison.

        Raises:
            UserError: Nothing was compared.
        """
        expected, got = ours.compared_log(), theirs.compared_log()
        self._refuse_if_nothing_was_compared(expected, got)
        drifts = () if self._tolerances.exact else self._tally.drifts()
        counts = self._tally.counts(len(drifts))
        places, others = ours.settings(), theirs.settings()
        moved = {name for name in places.keys() | others.keys() if places.get(name) != others.get(name)}
        known = places and others  # a golden has no folders and hosts
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

    def _refuse_if_nothing_was_compared(self, expected: ComparedLog, got: ComparedLog) -> None:
        if not (self._any_joined or self._joined_of_steps) or (self._any_of_steps and not self._joined_of_steps):
            raise UserError(
                f"diff: expected events in both logs, got no common event. A, {expected.name}: {_extent(expected)}. "
                f"B, {got.name}: {_extent(got)}. Events are joined by event, split, step, rank, modality, fingerprint "
                "and codebook: name two runs with the same data and --log_steps"
            )
        if not (self._joined or self._tally.kinds):
            raise UserError(
                "diff: expected fields to compare, got no event with a field that --only and --ignore leave. "
                "Name other fields"
            )


def _extent(side: ComparedLog) -> str:
    if not side.events:
        return "no event"
    events = "1 event" if side.events == 1 else f"{side.events:,} events"
    if side.first_step is None:
        return f"{events}, none with a step"
    first, last = side.first_step, side.last_step
    return f"{events}, " + (f"step {first}" if first == last else f"steps {first} to {last}")
