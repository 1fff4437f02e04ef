"""Runs the checks over the due steps of a run, and says each finding once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from higgs_audio_trainer.diagnoses import alignment, codebooks, dynamics, levels, masking, samples, stop_tokens
from higgs_audio_trainer.diagnoses.finding import SEVERITIES, Check, Finding, Severity
from higgs_audio_trainer.diagnoses.history import History, Run
from higgs_audio_trainer.events import Diagnosis, Level, RunStart
from higgs_audio_trainer.logged_step import LoggedStep

CHECKS: tuple[Check, ...] = (
    *masking.CHECKS,
    *alignment.CHECKS,
    *stop_tokens.CHECKS,
    *levels.CHECKS,
    *codebooks.CHECKS,
    *dynamics.CHECKS,
    *samples.CHECKS,
)
LEVELS: dict[Severity, Level] = {"note": "info", "warning": "warning", "error": "error"}
_Key = tuple[str, str | None, int | None]


@dataclass(slots=True)
class Said:
    """What was said of one finding: of one code, modality and codebook.

    Attributes:
        severity: the worst that was said.
        repeats: how often the same was found since.
        times: how often it was found at all.
        first_step, last_step: where it was found first and last.
    """

    severity: Severity
    repeats: int
    times: int
    first_step: int
    last_step: int


@dataclass(slots=True)
class _State:
    history: History = field(default_factory=History)
    said: list[tuple[_Key, Said]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)


class Diagnoser:
    """Checks due steps one after the other.

    A finding is said when it is found first and when it becomes worse; until then its repeats are counted.
    """

    def __init__(self) -> None:
        self._state = _State()
        self._said: dict[_Key, Said] = {}

    @property
    def counted(self) -> dict[str, int]:
        """At how many due steps each warning and error was found, by code."""
        return dict(self._state.counted)

    @property
    def said(self) -> dict[_Key, Said]:
        """What was said so far, by code, modality and codebook."""
        return dict(self._said)

    def start(self, start: RunStart) -> None:
        """Take the first line of the run, or of another attempt at it."""
        self._state.history.run = Run.of(start)

    def check(self, due: LoggedStep) -> list[Diagnosis]:
        """Check one due step or evaluation.

        Returns:
            What is found for the first time, or worse than before.
        """
        found = _worst(finding for check in CHECKS for finding in check(due, self._state.history))
        self._state.history.add(due)
        for code in {finding.code for finding in found if finding.severity != "note"}:
            self._state.counted[code] = self._state.counted.get(code, 0) + 1
        return [event for finding in found if (event := self._new(finding, due.step)) is not None]

    def _new(self, finding: Finding, step: int) -> Diagnosis | None:
        key = (finding.code, finding.modality, finding.codebook)
        said = self._said.get(key)
        if said is not None:
            said.times += 1
            said.last_step = step
            if SEVERITIES.index(finding.severity) <= SEVERITIES.index(said.severity):
                said.repeats += 1
                return None
        repeats = said.repeats if said else 0
        times, first = (said.times, said.first_step) if said else (1, step)
        self._said[key] = Said(finding.severity, 0, times, first, step)
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
        """Return what is known so far, packed: JSON has no NaN."""
        self._state.said = list(self._said.items())
        return msgspec.msgpack.encode(self._state)

    def restore(self, saved: bytes) -> None:
        """Go on with what an earlier attempt knew.

        Raises:
            msgspec.DecodeError: it is not what `save` gave.
        """
        self._state = msgspec.msgpack.decode(saved, type=_State)
        self._said = dict(self._state.said)


def _worst(findings: Iterable[Finding]) -> list[Finding]:
    """Keep the worst finding of each code, modality and codebook, in order."""
    kept: dict[_Key, Finding] = {}
    for finding in findings:
        key = (finding.code, finding.modality, finding.codebook)
        if key not in kept or SEVERITIES.index(finding.severity) > SEVERITIES.index(kept[key].severity):
            kept[key] = finding
    return list(kept.values())
