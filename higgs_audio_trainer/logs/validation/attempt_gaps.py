"""Files missing from a log as a whole: attempts, ranks and segments that the present files refer to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath

from higgs_audio_trainer.logs.files import AttemptFiles, files_of, parse_name
from higgs_audio_trainer.logs.lines import int_field, where
from higgs_audio_trainer.logs.typed import Record
from higgs_audio_trainer.logs.validation.attempt_check import AttemptCheck
from higgs_audio_trainer.logs.validation.training_rules import MOST_RANKS
from higgs_audio_trainer.logs.validation.violation import Severity, Violation

_KEEP = re.compile(r"\bkeep=([0-9]{1,9})\b")
_MOST_NUMBERS = 8  # numbers named in a message
_MOST_ATTEMPTS = 10_000  # resumes of a run; a larger attempt is a mutilated number


@dataclass(slots=True)
class _JoinedAttempt:
    """An attempt of a run, as known from the files of all ranks.

    Attributes:
        start: `run_start` of the lowest rank with one; empty without one.
        place: Place of the line.
        resumed: Step of the resumed checkpoint; 0 for a new run or if unknown.
        reached: Highest step; 0 before the first step.
        ranks: Ranks with lines.
    """

    start: Record
    place: str
    resumed: int
    reached: int
    ranks: set[int]

    @property
    def highest(self) -> int:
        """Highest step that the attempt passed or resumed from, whose files are then reported with this attempt."""
        return max(self.reached, self.resumed)


class AttemptGaps:
    """Collects the attempts of all files of a log, and finds the attempts and ranks without files."""

    def __init__(self) -> None:
        self._runs: dict[str | None, dict[int, _JoinedAttempt]] = {}

    def add(self, run_id: str | None, rank: int, attempt: int, check: AttemptCheck) -> None:
        """Add a rank and attempt after its last line."""
        if check.is_golden or check.last_place is None:
            return
        of_rank = _JoinedAttempt(
            check.start,
            check.start_place or check.last_place,
            int_field(check.start, "resumed_from_step") or 0,
            check.reached or 0,
            {rank},
        )
        known = self._runs.setdefault(run_id, {}).setdefault(attempt, of_rank)
        known.ranks.add(rank)
        known.reached = max(known.reached, of_rank.reached)
        if not known.start:
            known.start, known.place, known.resumed = of_rank.start, of_rank.place, of_rank.resumed

    def find(self, log: Collection[AttemptFiles]) -> Iterator[Violation]:
        """Report what is missing.

        Args:
            log: Files of the log; empty if other runs have files beside them.
        """
        steps = [violation for attempts in self._runs.values() for violation in _missing_steps(attempts)]
        yield from steps
        yield from _missing_attempts(log, {violation.where for violation in steps})
        for attempts in self._runs.values():
            yield from _unordered(attempts)
            for number, attempt in sorted(attempts.items()):
                yield from _missing_ranks(number, attempt)


def _missing_steps(attempts: dict[int, _JoinedAttempt]) -> Iterator[Violation]:
    """Report the steps of missing attempts, from which a present attempt resumed."""
    highest = 0
    for number, attempt in sorted(attempts.items()):
        before, highest = highest, max(highest, attempt.highest)
        if number > _MOST_ATTEMPTS:
            yield Violation(attempt.place, "$.attempt", f"at most {_MOST_ATTEMPTS:,}", str(number), "name")
            break
        if attempt.resumed <= before or number == 0:  # attempt 0 may go on from the checkpoint of another run
            continue
        steps = _numbered("step", range(before + 1, attempt.resumed + 1))
        if missing := [earlier for earlier in range(number) if earlier not in attempts]:
            is_of_another = _is_of_another_run(attempt.start)
            missing_files = "Add the missing files. An attempt without the jsonl sink has none"
            what_next = "The checkpoint may be of another run" if is_of_another else missing_files
            got = f"none, although attempt {number} resumed from step {attempt.resumed}. {what_next}"
            expected = f"{steps} in files of {_numbered('attempt', missing)}"
            severity: Severity = "note" if is_of_another else "error"
            yield Violation(attempt.place, "$.resumed_from_step", expected, got, "gap", severity)
        elif (due := _due_after(attempts, number, before)) <= attempt.resumed:
            got = (
                f"no step after {before}, although attempt {number} resumed from step {attempt.resumed}. The end of a "
                "file is lost, as when a machine dies"
            )
            yield Violation(
                attempt.place, "$.resumed_from_step", f"step {due} of an earlier attempt", got, "gap", "note"
            )


def _is_of_another_run(start: Record) -> bool:
    """Return True if `--resume` named a checkpoint outside the output directory."""
    config = start.get("config")
    if not isinstance(config, dict):
        return False
    resume, folder = config.get("resume"), config.get("output_dir")
    if not isinstance(resume, str) or not isinstance(folder, str) or resume.lower() in ("latest", "true"):
        return False
    return PurePath(folder) not in (PurePath(resume), PurePath(resume).parent)


def _unordered(attempts: dict[int, _JoinedAttempt]) -> Iterator[Violation]:
    """Yield a note for attempts that began before the attempt before. A clock may have been set."""
    begun = [(str(one.start["ts"]), number, one) for number, one in sorted(attempts.items()) if "ts" in one.start]
    for (before, earlier, _), (time, number, attempt) in pairwise(begun):
        if time < before:
            got = f"{time} in attempt {number}. The attempts are exchanged, or a clock was set"
            expected = f"{before} or later, the beginning of attempt {earlier}"
            yield Violation(attempt.place, "$.ts", expected, got, "run_start", "note")


def _due_after(attempts: dict[int, _JoinedAttempt], number: int, before: int) -> int:
    """Return the first logged step after a step, by the settings of the attempts before a number."""
    every = 1
    for earlier in sorted(attempts):
        config = attempts[earlier].start.get("config")
        if earlier < number and isinstance(config, dict):
            every = max(int_field(config, "log_steps") or 1, 1)
    return (before // every + 1) * every


def _missing_attempts(log: Collection[AttemptFiles], reported: Collection[str]) -> Iterator[Violation]:
    """Yield a note for attempts without files between two attempts with files, unless their steps are reported."""
    first_files = {group.attempt: group.files[0] for group in sorted(log, reverse=True)}
    for one, other in pairwise(sorted(first_files)):
        if other > one + 1:
            missing = _numbered("attempt", range(one + 1, other))
            place = where(first_files[other], 1, 0)
            if place in reported:
                continue
            yield Violation(place, "$.attempt", f"files of {missing}", "none", "name", "note")


def _missing_ranks(number: int, attempt: _JoinedAttempt) -> Iterator[Violation]:
    """Report ranks without a file, where every rank writes its own.

    Each machine of a training may have its own folder, so ranks before the first and after the last are a note. A
    machine has neighbouring ranks, or ranks at equal distances. A hole among neighbouring ranks is an error.
    """
    config, size, ranks = attempt.start.get("config"), int_field(attempt.start, "world_size") or 0, attempt.ranks
    if not isinstance(config, dict) or config.get("log_all_ranks") is not True or not 1 < size <= MOST_RANKS:
        return
    missing = [rank for rank in range(size) if rank not in ranks]
    holes = [rank for rank in missing if min(ranks) < rank < max(ranks)]
    if not missing:
        return
    is_hole = bool(holes) and any(rank + 1 in ranks for rank in ranks) and attempt.reached > 0
    got = "none" if is_hole else "none. Another machine may have the files"
    yield Violation(
        attempt.place,
        "$.rank",
        f"files of {_numbered('rank', holes if is_hole else missing)} in attempt {number}, as log_all_ranks says",
        got,
        "name",
        "error" if is_hole else "note",
    )


def missing_segments(group: AttemptFiles, check: AttemptCheck) -> Iterator[Violation]:
    """Report segments that `keep` did not delete. `keep=N` deletes the first segments and leaves the last N."""
    config, first = check.start.get("config"), parse_name(group.files[0])
    kept = _KEEP.search(str(config.get("sinks"))) if isinstance(config, dict) else None
    if kept is None or first is None or first.segment == 0:
        return
    present = {name.segment for name in files_of(group.files[0].parent) if (name.rank, name.attempt) == group[:2]}
    if len(present) < int(kept[1]):
        expected = f"the last {kept[1]} segments, which keep={kept[1]} leaves"
        got = f"{_numbered('segment', sorted(present))}. Add the missing files"
        yield Violation(where(group.files[0], 1, 0), "$", expected, got, "gap")


def _numbered(name: str, numbers: Collection[int]) -> str:
    """Return a name with numbers.

    Example:
        >>> _numbered("step", [3]), _numbered("step", range(3, 6)), _numbered("rank", [1, 4])
        ('step 3', 'steps 3 to 5', 'ranks 1, 4')
    """
    numbers = list(numbers) if not isinstance(numbers, range) else numbers
    first, last = numbers[0], numbers[-1]
    if first == last:
        return f"{name} {first}"
    if isinstance(numbers, range) or last - first + 1 == len(numbers):  # a range may be too long for len()
        return f"{name}s {first} to {last}"
    more = f" and {len(numbers) - _MOST_NUMBERS} more" if len(numbers) > _MOST_NUMBERS else ""
    return f"{name}s {', '.join(map(str, numbers[:_MOST_NUMBERS]))}{more}"
