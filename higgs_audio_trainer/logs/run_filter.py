"""Filter for the records of a run. The filter reports other runs and newer versions in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from higgs_audio_trainer.errors import UserError
from higgs_audio_trainer.events import SCHEMA_VERSION
from higgs_audio_trainer.logs.logged_runs import run_id_of, shown_id
from higgs_audio_trainer.logs.typed import Record

OnNotice = Callable[[str], None]
UNDECIDED = "\0undecided"  # in place of the id of a run


class NoSuchRunError(UserError):
    """No log holds the wanted run."""


def is_newer(record: Record) -> bool:
    """Return True if a newer major version of this package wrote a record."""
    version = record.get("v")
    return type(version) is int and version > SCHEMA_VERSION


@dataclass(slots=True)
class RunFilter:
    """Takes the records of one run, or of every run, and says what else a log holds.

    Attributes:
        name: Name of the log in messages.
        say: Receives each message about the log, a line.
        run: Id of the wanted run, or the beginning of the id; None for a choice of the filter.
        chosen: Id of the run, None for lines without an id. At first undecided for standard input.
        others: Ids of runs already named in a message.
        takes_every: Whether the records of every run are taken.
        takes_newest: Whether a new run takes the place of the chosen run.
        needs_known: Whether `finish` refuses a log without an event of this version.
    """

    name: str
    say: OnNotice
    run: str | None = None
    chosen: str | None = UNDECIDED
    others: set[str | None] = field(default_factory=set)
    takes_every: bool = False
    takes_newest: bool = False
    needs_known: bool = False
    _newer: set[int] = field(default_factory=set)  # versions of events
    _is_known: bool = False
    _is_said: bool = False

    def __call__(self, record: Record) -> bool:
        """Return True if a record is read."""
        run_id = run_id_of(record)
        if run_id is None and record.get("run_id") is not None:
            return True  # an invalid line, which readers report
        if run_id != self.chosen and not self._takes_other(run_id, record["event"]):
            return False
        if record.get("v") == SCHEMA_VERSION:
            self._is_known = True
        elif is_newer(record):
            self._newer.add(record["v"])
        return True

    def is_of_run(self, record: Record) -> bool:
        """Return True if a record is of a taken run, without a message and without a choice."""
        return self.takes_every or self.chosen in (UNDECIDED, run_id_of(record))

    def _takes_other(self, run_id: str | None, event: str) -> bool:
        """Return True if a record of another run than the chosen run is read."""
        if run_id is None and None not in self.others and event != "run_start":
            return self.run is None or self.chosen != UNDECIDED  # a stray line, not a golden
        is_new = run_id not in self.others
        self.others.add(run_id)
        if self.takes_every:
            if is_new and len(self.others) > 1:
                self.say(f"{self.name}: another run, {run_id}. Each run counts for itself; --run ID chooses one")
            return True
        return is_new and self._takes_new(run_id)

    def _takes_new(self, run_id: str | None) -> bool:
        """Return True if the first record of an unknown run is read. The run is then the chosen run."""
        is_wanted = self.run is None or is_named(run_id, self.run)
        if self.chosen != UNDECIDED and self.run is not None:
            if is_wanted:
                raise ambiguous(self.run, [self.chosen, run_id])
        elif self.chosen != UNDECIDED and not self.takes_newest:
            self.say(f"{self.name}: another run, {run_id}, is left out. --run ID chooses a run; this is {self.chosen}")
        elif is_wanted:
            if self.chosen != UNDECIDED:
                self.say(f"{self.name}: another run began, {run_id}, and is shown from here. --run ID chooses one run")
            self.chosen = run_id
            return True
        return False

    def finish(self, *, says_versions: bool = True) -> None:
        """Say after the last line that the log has events of a newer version.

        Args:
            says_versions: Whether to say the versions.

        Raises:
            UserError: The log holds no event of the wanted run, or no event of this version although events of this
                version are needed.
        """
        if self.run is not None and self.chosen == UNDECIDED:
            raise missing(self.run, self.name, self.others)
        if says_versions:
            self.say_versions()

    def say_versions(self) -> None:
        """Report once that the log has events of a newer version."""
        if self._is_said or not self._newer:
            return
        text = (
            f"{self.name}: expected events of version {SCHEMA_VERSION}, got version "
            f"{', '.join(map(str, sorted(self._newer)))} of a newer higgs-audio-trainer. Update higgs-audio-trainer to "
            "read these events"
        )
        if self.needs_known and not self._is_known:
            raise UserError(text)
        self._is_said = True
        self.say(text)


def is_named(run_id: str | None, run: str) -> bool:
    """Return True if an id begins like the wanted id."""
    return shown_id(run_id).startswith(run)


def ambiguous(run: str, found: Iterable[str | None]) -> UserError:
    """Return an error for a beginning of several ids."""
    ids = ", ".join(shown_id(run_id) for run_id in found)
    return UserError(f"--run: expected the id of one run or its beginning, got {run!r}, which begins {ids}")


def missing(run: str, name: str, known: Iterable[str | None]) -> NoSuchRunError:
    """Return an error for a beginning of no id."""
    ids = ", ".join(shown_id(run_id) for run_id in known) or "no run"
    return NoSuchRunError(f"--run: expected the id of a run of {name} or its beginning ({ids}), got {run!r}")
