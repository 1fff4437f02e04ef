"""Checks between the events of one sample: at other steps, and in the other codebooks of its step.

Inputs decide labels and places in our training, so a contradiction is an error. A training that is not ours may draw
other labels for the same inputs, or pad on the left, which moves the places, and a resumed training may have another
manifest. A contradiction there is a note, the first one of each field.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from higgs_audio_trainer.logs.lines import LogLine, int_field, where
from higgs_audio_trainer.logs.typed import Record, is_any_marked
from higgs_audio_trainer.logs.validation.training_rules import is_ours
from higgs_audio_trainer.logs.validation.violation import Severity, Violation

#: Samples and codebooks to remember, and the bytes of their windows. Later samples are compared with these alone, so
#: that memory stays below 32 MiB in a log of any length.
_MOST_SERIES, _MOST_BYTES = 20_000, 2**24
_WHY = ". A training may pad on the left, draw other labels, or have another manifest. Further samples are not listed"
_WHY_REVERSED = ". The codebooks are swapped, or have delays of their own. Further samples are not listed"
_COUNTS = ("num_targets", "stop_targets")
_LISTS = ("positions", "inputs", "labels")
#: Settings that decide which slots of the same inputs are supervised, in the changes of a resumed run.
_DECIDE_LABELS = frozenset({"train_manifest", "eval_manifest", "text_loss_weight"})
_OF_A_SAMPLE = ("sample_index", "step", "split", "rank", "attempt", "run_id")
_COMPARED = (*_COUNTS, "first", "last", "fingerprint", "sample_id")


class _Seen(NamedTuple):
    """A sample's text or codebook at an earlier step."""

    facts: bytes  # `_facts_of` as JSON, a tenth of the lists
    sample_id: str
    split: str
    attempt: int
    version: str | None
    place: tuple[Path, int, int]


class Neighbours:
    """Remembers the samples of a log, and compares each sample with its earlier events."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], _Seen] = {}
        self._bytes = 0
        self._noted: set[tuple[Any, str]] = set()  # run and field of each note
        self._begun: tuple[list[Any], int, int, LogLine] | None = None  # codebook before, and its first position

    def take(self, line: LogLine, start: Record) -> Iterable[Violation]:
        """Check a `prediction_sample`, valid by the schema.

        Args:
            line: Line of the sample.
            start: `run_start` of the line's rank and attempt, empty if missing.
        """
        record = line.record
        if is_any_marked(record, _COMPARED):
            return ()
        found = self._delayed(line, start)
        key = (record.get("run_id"), record["fingerprint"], record["modality"], record["codebook"])
        seen, facts = self._seen.get(key), orjson.dumps(_facts_of(record))
        if seen is None:
            self._remember(key, facts, line, _version(start))
        elif seen.facts != facts:
            return [*found, *self._changed(line, start, seen)]
        return found

    def _changed(self, line: LogLine, start: Record, seen: _Seen) -> Iterator[Violation]:
        """Report the first difference from the earlier event of the sample."""
        record = line.record
        wrong = _first_difference(orjson.loads(seen.facts), _facts_of(record))
        if wrong is None:
            return
        path, expected, got = wrong
        severity = _severity(record, start, seen)
        if self._is_reported(record, severity, path):
            place = f"as the same inputs (fingerprint {record['fingerprint']}) have at {where(*seen.place)}"
            why = "" if severity == "error" else _WHY
            yield Violation(line.where, path, f"{expected}, {place}", f"{got}{why}", "value", severity)

    def _is_reported(self, record: Record, severity: Severity, path: str) -> bool:
        """Return True for an error, and for the first note of a run and field, since each sample may have one."""
        if severity == "error":
            return True
        key = record.get("run_id"), path.partition("[")[0]
        is_first = key not in self._noted
        self._noted.add(key)
        return is_first

    def _remember(self, key: tuple[Any, ...], facts: bytes, line: LogLine, version: str | None) -> None:
        if len(self._seen) >= _MOST_SERIES or self._bytes + len(facts) > _MOST_BYTES:
            return
        self._bytes += len(facts)
        record, attempt = line.record, int_field(line.record, "attempt") or 0
        place = line.path, line.number, line.offset
        self._seen[key] = _Seen(facts, record["sample_id"], record["split"], attempt, version, place)

    def _delayed(self, line: LogLine, start: Record) -> Collection[Violation]:
        """Check that a later codebook of a sample begins no earlier, as in every delay pattern with rising delays."""
        record = line.record
        codebook, positions = record["codebook"], record["first"]["positions"]
        if codebook is None or not positions:
            return ()
        key, before = [record.get(name) for name in _OF_A_SAMPLE], self._begun
        self._begun = (key, codebook, positions[0], line)
        if before is None or before[0] != key:
            return ()
        _, other, begin, place = before
        severity: Severity = "error" if is_ours(start) else "note"
        is_reversed = (codebook - other) * (positions[0] - begin) < 0
        if not is_reversed or not self._is_reported(record, severity, "codebook"):
            return ()
        expected = (
            f"at {'least' if codebook > other else 'most'} {begin}, where codebook {other} begins at {place.where}"
        )
        got = f"{positions[0]} in codebook {codebook}{'' if severity == 'error' else _WHY_REVERSED}"
        return [Violation(line.where, "$.first.positions[0]", expected, got, "value", severity)]


def _severity(record: Record, start: Record, seen: _Seen) -> Severity:
    """Return `error` if the sample is the same sample of the same data, prepared in the same way."""
    is_same_sample = (record["sample_id"], record["split"]) == (seen.sample_id, seen.split)
    is_same_attempt = (int_field(record, "attempt") or 0) == seen.attempt
    changes = start.get("resume_changes")
    is_same_data = changes is not None and _DECIDE_LABELS.isdisjoint(changes) and _version(start) == seen.version
    return "error" if is_ours(start) and is_same_sample and (is_same_attempt or is_same_data) else "note"


def _version(start: Record) -> str | None:
    versions = start.get("versions")
    return str(versions.get("higgs_audio_trainer")) if isinstance(versions, dict) else None


def _facts_of(record: Record) -> list[Any]:
    """Return what the inputs of a sample decide: two counts, then three lists for each window."""
    first, last = record["first"], record["last"]
    return [
        *(record["num_targets"], record["stop_targets"]),
        *(first["positions"], first["inputs"], first["labels"]),
        *(last["positions"], last["inputs"], last["labels"]),
    ]


def _first_difference(before: Sequence[Any], now: Sequence[Any]) -> tuple[str, str, str] | None:
    """Return path, expected and found value of the first difference; None if only the windows' sizes differ."""
    for index, (name, old, new) in enumerate(zip(_PATHS, before, now, strict=True)):
        if index < len(_COUNTS):
            if old != new:
                return name, str(old), str(new)
            continue
        size = min(len(old), len(new))
        skip_old, skip_new = (0, 0) if name.startswith("$.first") else (len(old) - size, len(new) - size)
        for place in range(size):
            one, other = old[skip_old + place], new[skip_new + place]
            if one != other:
                return f"{name}[{skip_new + place}]", _shown(one), _shown(other)
    return None


def _shown(value: int | None) -> str:
    return "null" if value is None else str(value)


_PATHS = (
    *(f"$.{name}" for name in _COUNTS),
    *(f"$.{name}.{part}" for name in ("first", "last") for part in _LISTS),
)
