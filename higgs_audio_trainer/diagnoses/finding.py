"""Findings of the checks, the helper that makes findings, and the signature of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import Modality, PredictionSample, TokenCounts
from higgs_audio_trainer.logged_step import LoggedStep

Severity = Literal["note", "warning", "error"]

#: Severities from the mildest to the worst.
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")

#: Advice for every mistake in the label shift.
SHIFT_ONCE = "Shift once, in one place: the row at p-1 predicts the token at p."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check at one logged step. `Diagnoser` decides whether the finding is reported.

    Attributes:
        code: Name of the check.
        severity: An error means that the trained adapters are unusable.
        message: Observation with its numbers, usual cause and advice, on one line.
        evidence: Figures behind the message, as builtins that JSON can hold.
        modality: Text or audio. None where the finding concerns both.
        codebook: Index of the codebook. None where the finding concerns no single codebook.
    """

    code: str
    severity: Severity
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    modality: Modality | None = None
    codebook: int | None = None


#: A check looks at a logged step and the history before the step. A check changes neither and always answers alike.
Check = Callable[[LoggedStep, History], Iterator[Finding]]


def make_finding(
    code: str,
    severity: Severity,
    /,
    *sentences: str,
    about: TokenCounts | PredictionSample | Modality | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Finding:
    """Return a finding whose message is the sentences on one line.

    Args:
        code: Name of the check.
        severity: Severity of the finding.
        sentences: Observation with its numbers, usual cause and advice, in this order.
        about: Counts or sample of the text or codebook in question, whose name then begins the message; or a modality.
        evidence: Figures behind the message.

    Example:
        >>> finding = make_finding("plateau", "error", "grad_norm is 0.", "Usually frozen adapters.", about="text")
        >>> finding.message, finding.modality
        ('grad_norm is 0. Usually frozen adapters.', 'text')
    """
    message, evidence = " ".join(sentences), evidence or {}
    if about is None or isinstance(about, str):
        return Finding(code=code, severity=severity, message=message, evidence=evidence, modality=about)
    name = "text" if about.codebook is None else f"codebook {about.codebook}"
    return Finding(
        code=code,
        severity=severity,
        message=f"{name}: {message}",
        evidence=evidence,
        modality=about.modality,
        codebook=about.codebook,
    )
