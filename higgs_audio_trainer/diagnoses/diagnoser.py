"""Runs the checks over the logged steps of a run and reports each finding once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from higgs_audio_trainer.diagnoses import (
    alignment,
    codebooks,
    dynamics,
    levels,
    masking,
    resume,
    samples,
    schedule,
    stop_tokens,
    voice,
)
from higgs_audio_trainer.diagnoses.finding import SEVERITIES, Check, Finding, Severity
from higgs_audio_trainer.diagnoses.history import AttemptFacts, History, Run
from higgs_audio_trainer.events import Diagnosis, Level, RunStart
from higgs_audio_trainer.logged_step import LoggedStep

CHECKS: tuple[Check, ...] = (
    *masking.CHECKS,
    *alignment.CHECKS,
    *stop_tokens.CHECKS,
    *levels.CHECKS,
    *codebooks.CHECKS,
    *dynamics.CHECKS,
    *schedule.CHECKS,
    *resume.CHECKS,
    *samples.CHECKS,
    *voice.CHECKS,
)
LEVELS: dict[Severity, Level] = {"note": "info", "warning": "warning", "error": "error"}
_Key = tuple[str, str | None, int | None]


@dataclass(slots=True)
class ReportedFinding:
    """Tally of the reported findings of one code, modality and codebook.

    The names of the fields are the keys of the state in a checkpoint and must not change.

    Attributes:
        severity: Worst reported severity.
        repeats: Findings since the last report.
        times: Findings in all.
        first_step: Step of the first finding.
        last_step: Step of the last finding.
    """

    severity: Severity
    repeats: int
    times: int
    first_step: int
    last_step: int


class _State(msgspec.Struct):
    """State in a checkpoint. The encoded names are those of earlier versions, whose checkpoints still restore."""

    history: History = msgspec.field(default_factory=History)
    reported: list[tuple[_Key, ReportedFinding]] = msgspec.field(name="said", default_factory=list)
    counted: dict[str, int] = msgspec.field(default_factory=dict)


class Diagnoser:
    """Checks the logged steps of a run in their order.

    A finding is reported when first found and when its severity rises. Until then its repeats are counted.

    Example:
        >>> diagnoser = Diagnoser()
        >>> diagnoser.check(LoggedStep(20)), diagnoser.counted
        ([], {})
    """

    def __init__(self) -> None:
        self._state = _State()
        self._reported: dict[_Key, ReportedFinding] = {}

    @property
    def counted(self) -> dict[str, int]:
        """Number of logged steps with each warning or error, by code."""
        return dict(self._state.counted)

    @property
    def reported(self) -> dict[_Key, ReportedFinding]:
        """Reported findings by code, modality and codebook."""
        return dict(self._reported)

    def start(self, start: RunStart) -> None:
        """Take the facts of the run from the first event of an attempt."""
        self._state.history.run = Run.of(start)
        self._state.history.begin(AttemptFacts.of(start))

    def check(self, logged: LoggedStep) -> list[Diagnosis]:
        """Check a logged step, an evaluation or a generation of the probes.

        Returns:
            Events of the findings that are new or worse than before.
        """
        found = _worst(finding for check in CHECKS for finding in check(logged, self._state.history))
        self._state.history.add(logged)
        for code in {finding.code for finding in found if finding.severity != "note"}:
            self._state.counted[code] = self._state.counted.get(code, 0) + 1
        return [event for finding in found if (event := self._new(finding, logged.step)) is not None]

    def _new(self, finding: Finding, step: int) -> Diagnosis | None:
        key = (finding.code, finding.modality, finding.codebook)
        known = None if finding.code == resume.CODE else self._reported.get(key)  # each resume counts for itself
        if known is not None:
            known.times += 1
            known.last_step = step
            if SEVERITIES.index(finding.severity) <= SEVERITIES.index(known.severity):
                known.repeats += 1
                return None
        repeats = known.repeats if known else 0
        times, first = (known.times, known.first_step) if known else (1, step)
        self._reported[key] = ReportedFinding(finding.severity, 0, times, first, step)
        return Diagnosis(
            step=step,
            code=finding.code,
            severity=finding.severity,
            message=finding.message,
            evidence=dict(finding.evidence),
            modality=finding.modality,
            codebook=finding.codebook,
            repeats=repeats,
        )

    def save(self) -> bytes:
        """Return the state as msgpack. JSON would lose NaN."""
        self._state.reported = list(self._reported.items())
        return msgspec.msgpack.encode(self._state)

    def restore(self, saved: bytes) -> None:
        """Continue from the state of an earlier attempt.

        Args:
            saved: Bytes that `save` returned, in this version or an earlier version.

        Raises:
            msgspec.DecodeError: The bytes are no saved state.

        Example:
            >>> diagnoser = Diagnoser()
            >>> diagnoser.restore(Diagnoser().save())
            >>> diagnoser.counted
            {}
        """
        self._state = msgspec.msgpack.decode(saved, type=_State)
        self._reported = dict(self._state.reported)


def _worst(findings: Iterable[Finding]) -> list[Finding]:
    """Return the worst finding of each code, modality and codebook, in the order of the findings."""
    kept: dict[_Key, Finding] = {}
    for finding in findings:
        key = (finding.code, finding.modality, finding.codebook)
        if key not in kept or SEVERITIES.index(finding.severity) > SEVERITIES.index(kept[key].severity):
            kept[key] = finding
    return list(kept.values())
