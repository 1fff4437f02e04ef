"""What a check finds, and what a check is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from higgs_audio_trainer.diagnoses.history import History
from higgs_audio_trainer.events import Modality
from higgs_audio_trainer.logged_step import LoggedStep

Severity = Literal["note", "warning", "error"]

#: From the mildest to the worst.
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found at one due step, before it is known whether it was said already.

    Attributes:
        code: name of the check.
        severity: how bad it is. An error says that the result of the training is of no use as it is.
        message: what was found, with numbers; the usual cause; what to do. One line.
        evidence: the figures behind it: builtins that JSON can hold.
        modality: text or audio; None where it is about both.
        codebook: None where it is not about one.
    """

    code: str
    severity: Severity
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    modality: Modality | None = None
    codebook: int | None = None


#: A check looks at a due step, and at what was before it. It changes neither, and answers alike when asked again.
Check = Callable[[LoggedStep, History], Iterator[Finding]]
